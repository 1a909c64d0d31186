"""Writes to standard output. An error of writing is told apart from every other OSError."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

CONTROLS = {*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
VISIBLE = {code: f"\\x{code:02x}" for code in CONTROLS}
"""What a terminal shows for control characters. An answer must not move its cursor, retitle it or type into it."""


class OutputLost(Exception):
    """The output cannot be written, as on a full disk."""


@contextmanager
def writing() -> Iterator[None]:
    """Raises OutputLost for an OSError of the block, except that of a reader who left, which click handles."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise OutputLost(error.strerror or str(error)) from error


def put(text: object = "", *, nl: bool = True) -> None:
    """Writes a text, and the end of its line if `nl` is true. Raises OutputLost if that is not possible.

    A terminal gets the text with its control characters made visible, anything else gets it as it is.
    """
    is_terminal = sys.stdout is not None and sys.stdout.isatty()  # it is None if it was closed from the start
    shown = str(text).translate(VISIBLE) if is_terminal else text
    with writing():
        click.echo(shown, nl=nl, color=True)  # click would take the sequences of terminals out of a text


def require_output() -> None:
    """Raises click.UsageError if standard output is closed: an answer would be lost."""
    if sys.stdout is None:  # the process was started with it closed
        raise click.UsageError("standard output is closed; leave it open, since answers are written to it")


class Command(click.Command):
    """A command whose help may be lost too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the options of the command. The option for help writes it at once."""
        with writing():
            return super().parse_args(ctx, args)
