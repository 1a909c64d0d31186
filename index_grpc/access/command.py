"""The command `index-grpc keys`."""

import math
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import click

from index_grpc.access.bounds import LEAST_REQUESTS_PER_MINUTE, MOST_CONCURRENT, MOST_REQUESTS_PER_MINUTE
from index_grpc.errors import StartupError


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuses nan, which click takes for a number within every range."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number")
    return value


class Day(click.ParamType[date]):
    """A day of the calendar."""

    name = "YYYY-MM-DD"

    def convert(self, value: str | date, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Returns the day."""
        try:
            return value if isinstance(value, date) else date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no day; write it as {self.name}", param, ctx)


@click.group()
def keys() -> None:
    """Make and list API keys for a server with --api-keys-file."""


@keys.command()
@click.argument("name")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Add it to this file, which is made if it is not there. Default: what to add is written to stderr.",
)
@click.option(
    "--requests-per-minute",
    type=click.FloatRange(LEAST_REQUESTS_PER_MINUTE, MOST_REQUESTS_PER_MINUTE),
    callback=finite,
    help="Most calls in a minute.",
)
@click.option("--max-concurrent", type=click.IntRange(1, MOST_CONCURRENT), help="Most calls open at a time.")
@click.option("--expires", type=Day(), help="First day, in UTC, on which it is refused.")
def new(
    name: str,
    file: Path | None,
    requests_per_minute: float | None,
    max_concurrent: int | None,
    expires: date | None,
) -> None:
    """Print a new API key for the caller NAME. It cannot be printed again.

    The server's file holds only its hash.

    \b
    Example:
      index-grpc keys new alice --file keys.toml --requests-per-minute 60
    """
    if sys.stdout is None:  # the process was started with it closed
        raise click.UsageError("standard output is closed; leave it open, since the key is written to it")
    from index_grpc.access.entry import add, entry  # pydantic is slow to import
    from index_grpc.access.keys import new_key

    today = datetime.now(UTC).date()
    if expires and expires <= today:
        raise click.UsageError(f"--expires is {expires}; allowed is a day after today, which is {today} in UTC")
    key = new_key()
    try:
        text = entry(name, key, requests_per_minute=requests_per_minute, max_concurrent=max_concurrent, expires=expires)
    except StartupError as error:
        raise click.UsageError(str(error)) from None
    if file is None:
        click.echo(key)  # first, since stderr may be a file of keys
        click.echo(text, err=True, nl=False)
        return
    try:
        add(text, file, show=lambda: click.echo(key))
    except StartupError as error:
        raise click.ClickException(str(error)) from None


@keys.command("list")
@click.option(
    "--file",
    "--api-keys-file",
    envvar="INDEX_GRPC_API_KEYS_FILE",
    show_envvar=True,
    required=True,
    type=click.Path(path_type=Path),
    help="The server's file of keys.",
)
def list_keys(file: Path) -> None:
    """Print the names, limits and expiry of a file's keys.

    A file that a server would refuse is refused in the same words, and the exit code is 1. So this also checks a file
    before a server reads it.

    \b
    Example:
      index-grpc keys list --file keys.toml
    """
    from index_grpc.access.keys import read_keys  # pydantic is slow to import
    from index_grpc.access.table import table

    try:
        found = read_keys(file)
    except StartupError as error:
        raise click.ClickException(str(error)) from None
    click.echo("\n".join(table(found)))
