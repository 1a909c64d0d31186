"""The command line `index-grpc`. Wires the floors together; imports what is slow only when it is needed."""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import click

from index_grpc import __version__
from index_grpc.access.command import keys
from index_grpc.bench.command import bench
from index_grpc.configuration.effective import effective_settings, origin
from index_grpc.configuration.file import as_toml
from index_grpc.configuration.flags import CommandByTopic, settings_options
from index_grpc.errors import StartupError
from index_grpc.export.command import export
from index_grpc.logs import configure_logging
from index_grpc.settings import DEFAULT_REPOSITORY, ServeSettings

log = logging.getLogger(__name__)


class Commands(click.Group):
    """Tells what is wrong with the command line in one line, like everything else that goes wrong."""

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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="index-grpc")
def main() -> None:
    """Serve the Index chat model over gRPC."""


@main.command(cls=CommandByTopic)
@settings_options
@click.option("--print-config", is_flag=True, help="Print the settings in effect as a file for --config, and exit.")
@click.pass_context
def serve(ctx: click.Context, /, print_config: bool, **_: object) -> None:
    """Serve a model until SIGINT or SIGTERM.

    A flag counts before its environment variable, that before the file, and that before the default.

    \b
    Example:
      index-grpc serve --model demo --port 50051
    """
    settings = effective_settings(ctx)
    if print_config:
        click.echo(as_toml(settings, {name: origin(ctx, name).kind for name in ServeSettings.model_fields}))
        return
    configure_logging(settings.log_level, settings.log_format)
    log.info("index-grpc %s", __version__)
    exit_code = 0
    try:
        _serve_until_stopped(settings)
    except StartupError as error:
        _tell(error, settings)
        exit_code = 1
    _exit(exit_code)


@main.command()
@click.argument("model", default=DEFAULT_REPOSITORY)
@click.option("--revision", help="Branch, tag or commit; default: the main branch.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Directory to put it in.")
def download(model: str, revision: str | None, output: Path | None) -> None:
    """Fetch MODEL from the hub, check it and print its directory.

    MODEL is a hub id; the default is IndexTeam/Index-1.9B-Chat. An interrupted download goes on where it stopped. The
    environment variable HF_ENDPOINT names a mirror.
    """
    from index_grpc.loading import download as fetch

    try:
        click.echo(fetch(model, revision, output))
    except StartupError as error:
        _fail(str(error))


main.add_command(bench)
main.add_command(export)
main.add_command(keys)


def _serve_until_stopped(settings: ServeSettings) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of its own log comes up as an error of ours
    import uvloop

    from index_grpc.launch import load, ports
    from index_grpc.server.lifetime import serve

    uvloop.run(serve(settings, lambda: load(settings), ports(settings)))


def _tell(error: StartupError, settings: ServeSettings) -> None:
    if settings.log_format == "json":
        log.error("%s", error)
    else:
        click.echo(f"error: {error}", err=True)


def _exit(exit_code: int) -> NoReturn:
    from index_grpc.engine.worker import ENGINE_THREAD
    from index_grpc.server.app import LOADING_THREAD

    if any(thread.name in (LOADING_THREAD, ENGINE_THREAD) for thread in threading.enumerate()):
        # Stopped while loading or amid a step: a thread in PyTorch's native code crashes the interpreter's orderly end.
        logging.shutdown()
        os._exit(exit_code)
    sys.exit(exit_code)


def _fail(message: str, exit_code: int = 1) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
