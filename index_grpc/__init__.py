"""Serves the Index chat model over gRPC."""

__version__ = "0.1.0"
