"""What the commands read: standard input, in UTF-8 whatever the locale."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click


@contextmanager
def standard_input() -> Iterator[BinaryIO]:
    """Gives standard input; that it is closed or cannot be read is a click.UsageError."""
    if sys.stdin is None:  # closed by who started this
        raise click.UsageError("standard input is closed; leave it open, it is where prompts come from")
    try:
        yield sys.stdin.buffer
    except OSError as error:
        raise click.UsageError(f"standard input cannot be read: {error.strerror or error}") from error


def is_terminal() -> bool:
    """Tells whether a person types what comes from standard input."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_all() -> str:
    """Returns standard input without the end of its last line; that it is not UTF-8 is a click.UsageError."""
    with standard_input() as source:
        text = source.read()
    try:
        return decoded(text)
    except UnicodeDecodeError as error:
        raise click.UsageError(not_utf8(error)) from error


def read_line() -> str:
    """Returns the next line of standard input.

    Raises:
        EOFError: there is none.
        UnicodeDecodeError: this one is not UTF-8.
    """
    with standard_input() as source:
        line = source.readline()
    if not line:
        raise EOFError
    return decoded(line)


def decoded(text: bytes) -> str:
    """Returns text without the end of its last line."""
    return text.decode().removesuffix("\n").removesuffix("\r")


def not_utf8(error: UnicodeDecodeError) -> str:
    """Returns what to tell a person whose input cannot be decoded."""
    return f"standard input is not UTF-8: {error}"
