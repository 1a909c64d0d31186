"""The command line `index-grpc`. Wires the floors together; imports what is slow only when it is needed."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from index_grpc import __version__
from index_grpc.bench.command import bench
from index_grpc.errors import StartupError
from index_grpc.export.command import export
from index_grpc.logs import configure_logging
from index_grpc.settings import DEFAULT_REPOSITORY, ServeSettings

Command = Callable[..., None]


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


class EnvironmentOption(click.Option):
    """An option that Kubernetes cannot set by accident.

    Beside a Service named index-grpc it gives every container INDEX_GRPC_PORT=tcp://10.0.0.1:50051.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value, unless it is one of those."""
        value = super().resolve_envvar_value(ctx)
        return None if value and value.startswith("tcp://") else value


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="index-grpc")
def main() -> None:
    """Serve the Index chat model over gRPC."""


def _click_type(field: FieldInfo) -> click.Choice[str] | type:
    annotation = field.annotation
    if annotation == bool | None:
        return bool
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    return annotation if isinstance(annotation, type) and annotation in (int, float, bool) else str


def settings_options(command: Command) -> Command:
    """Adds a flag for each field of ServeSettings."""
    for name, field in reversed(ServeSettings.model_fields.items()):
        flag = name.replace("_", "-")
        option = click.option(
            f"--{flag}/--no-{flag}" if _click_type(field) is bool else f"--{flag}",
            name,
            cls=EnvironmentOption,
            envvar=f"INDEX_GRPC_{name.upper()}",
            default=field.default,
            type=_click_type(field),
            help=field.description,
            show_default=field.default is not None,
            show_envvar=True,
        )
        command = option(command)
    return command


@main.command()
@settings_options
def serve(**values: object) -> None:
    """Serve a model until SIGINT or SIGTERM.

    \b
    Example:
      index-grpc serve --model demo --port 50051
    """
    settings = _settings(values)
    configure_logging(settings.log_level)
    logging.getLogger(__name__).info("index-grpc %s", __version__)
    exit_code = 0
    try:
        _serve_until_stopped(settings)
    except StartupError as error:
        click.echo(f"error: {error}", err=True)
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


def _settings(values: dict[str, object]) -> ServeSettings:
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        flag = f"--{str(first['loc'][0]).replace('_', '-')}"
        problem = first["msg"].replace("Input should", "it should").replace("String should", "it should")
        raise click.UsageError(f"{flag} is {first['input']!r}; {problem}") from None


def _serve_until_stopped(settings: ServeSettings) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of its own log comes up as an error of ours
    import uvloop

    from index_grpc.launch import load, ports
    from index_grpc.server.lifetime import serve

    uvloop.run(serve(settings, lambda: load(settings), ports(settings)))


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
