"""Alternatives to our server, each as a program that answers rounds of prompts; see `protocol.py`."""
