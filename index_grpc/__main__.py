"""Runs the command line: `python -m index_grpc` is `index-grpc`."""

from index_grpc.start import main

main()
