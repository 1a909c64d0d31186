"""Reads standard input for the commands, as UTF-8 whatever the locale is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click


@contextmanager
def standard_input() -> Iterator[BinaryIO]:
    """Yields standard input. Raises click.UsageError if it is closed or cannot be read."""
    if sys.stdin is None:  # the process was started with it closed
        raise click.UsageError("standard input is closed; leave it open, since prompts are read from it")
    try:
        yield sys.stdin.buffer
    except OSError as error:
        raise click.UsageError(f"standard input cannot be read: {error.strerror or error}") from error


def is_terminal() -> bool:
    """Returns whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_all() -> str:
    """Returns standard input without the end of its last line. Raises click.UsageError if it is not UTF-8."""
    with standard_input() as source:
        text = source.read()
    try:
        return decoded(text)
    except UnicodeDecodeError as error:
        raise click.UsageError(not_utf8(error)) from error


def read_line() -> str:
    """Returns the next line of standard input.

    Raises:
        EOFError: there is no further line.
        UnicodeDecodeError: the line is not UTF-8.
    """
    with standard_input() as source:
        line = source.readline()
    if not line:
        raise EOFError
    return decoded(line)


def decoded(text: bytes) -> str:
    """Returns bytes of UTF-8 as text, without the end of the last line."""
    return text.decode().removesuffix("\n").removesuffix("\r")


def not_utf8(error: UnicodeDecodeError) -> str:
    """Returns the message for input that cannot be decoded."""
    return f"standard input is not UTF-8: {error}"
