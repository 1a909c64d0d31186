"""The load generator, `index-grpc bench`: asks a running server over the wire, as its callers do, and measures.

`command` reads the command line and imports nothing slow, `plan` says what to measure, `workload` makes prompts and
arrival times, `drive` asks, `measure` notes and sums up, `report` and `plot` show.
"""
