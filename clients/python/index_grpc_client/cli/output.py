"""Writes to standard output. An error of writing is told apart from every other OSError."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


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
    """Writes a text, and the end of its line if `nl` is true. Raises OutputLost if that is not possible."""
    with writing():
        click.echo(text, nl=nl)


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
