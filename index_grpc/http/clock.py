"""The time as the tutorial writes it."""

from datetime import datetime


def clock_time() -> str:
    """Now, where the server stands."""
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
