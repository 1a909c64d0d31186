"""What a terminal shows."""

import os
import select


def shown(terminal: int, until: str) -> str:
    """Reads what a terminal shows up to a text."""
    read = b""
    while until.encode() not in read:
        assert select.select([terminal], [], [], 60)[0], read
        read += os.read(terminal, 1000)
    return read.decode()
