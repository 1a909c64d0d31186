"""The load generator, `index-grpc bench`: it sends requests to a running server as callers do, and measures.

`command` reads the command line and imports nothing slow, `plan` says what to measure, `workload` makes prompts and
arrival times, `drive` sends the requests, `record` holds the results, `measure` sums them up, `report` and `plot`
show them.
"""
