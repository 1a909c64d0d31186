"""Writes lines to stderr, whatever it is: a terminal, a pipe that does not block, or a file on a disk that is full."""

import os
import select
from contextlib import suppress
from itertools import accumulate
from typing import TextIO


class LogOutput:
    """Writes whole lines, as far as the stream takes them."""

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` is None if the process was started with stderr closed."""
        self._stream = stream
        self._rest = b""
        """What is left of a line that was written in part. It comes before the next line, or that would begin in it."""

    def write(self, lines: list[str]) -> int:
        """Writes the lines, and returns how many of them could not be written, for example since the disk is full."""
        if self._stream is None:
            return len(lines)
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):  # a stream in memory, or a closed one
            with suppress(ValueError):
                self._stream.write("\n".join([*lines, ""]))
            return 0
        pieces = [self._rest, *(f"{line}\n".encode(errors="backslashreplace") for line in lines)]
        data, ends = b"".join(pieces), list(accumulate(map(len, pieces)))
        num_written = _write(descriptor, data)
        begun = next(end for end in ends if end >= num_written)
        self._rest = data[num_written:begun]
        return sum(end > begun for end in ends)


def _write(descriptor: int, data: bytes) -> int:
    """Writes as much as possible, and returns the number of bytes written.

    It does not use the stream, which drops what a non-blocking file does not take at once. Other processes that share
    a terminal or a pipe may have made it non-blocking.
    """
    num_written = 0
    while num_written < len(data):
        try:
            num_written += os.write(descriptor, memoryview(data)[num_written:])
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:  # there is nobody to tell until the log can be written again
            break
    return num_written
