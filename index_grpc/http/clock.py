"""The time in the tutorial's format."""

from datetime import datetime


def clock_time() -> str:
    """Returns the server's local time."""
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
