"""The command line `index-grpc`. Imports a command's module only when it is used, since a probe must start quickly."""

import errno
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click

from index_grpc import __version__

MODULES = {
    "bench": "index_grpc.bench.command",
    "download": "index_grpc.commands.download",
    "export": "index_grpc.export.command",
    "health": "index_grpc.commands.health",
    "keys": "index_grpc.access.command",
    "serve": "index_grpc.commands.serve",
}
"""The module of each command. In its module a command has the same name as here."""


class Commands(click.Group):
    """Reports every error in one line, mistakes in the command line too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Called by click."""
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Called by click."""
        if cmd_name not in MODULES:
            _refuse_unknown(ctx, cmd_name)
            return None
        command: click.Command = getattr(import_module(MODULES[cmd_name]), cmd_name)
        return command

    def main(self, *args: Any, **options: Any) -> NoReturn:  # noqa: ANN401 - click's own
        """Runs a command and exits."""
        try:
            sys.exit(super().main(*args, **{**options, "standalone_mode": False}))
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except click.Abort:
            _fail("interrupted", 130)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            click.echo(f"error: {error.filename or 'the output'} cannot be written: {error.strerror}", err=True)
            os._exit(1)  # else Python flushes the output once more at exit, and reports the error again


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="index-grpc")
def main() -> None:
    """Serve the Index chat model over gRPC."""


def _refuse_unknown(ctx: click.Context, name: str) -> None:
    """Raises UsageError with the most similar command. click cannot, since commands are imported only when used."""
    if not ctx.resilient_parsing:
        near = get_close_matches(name, MODULES, n=1)
        remedy = f"did you mean {near[0]}?" if near else "index-grpc --help lists them all"
        raise click.UsageError(f"there is no command {name}; {remedy}", ctx)


def _fail(message: str, exit_code: int) -> NoReturn:
    with suppress(OSError):  # stderr cannot be written, so the message is lost
        click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
