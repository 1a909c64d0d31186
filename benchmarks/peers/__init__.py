"""What a user would pick instead of our server, each as a program that answers rounds of prompts; see `protocol.py`."""
