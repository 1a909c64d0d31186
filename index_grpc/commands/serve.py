"""The command `index-grpc serve`. Imports slow modules only when it serves."""

import functools
import logging
import os
import sys
import threading
from typing import NoReturn

import click

from index_grpc import __version__
from index_grpc.configuration.effective import effective_settings, origin
from index_grpc.configuration.file import as_toml
from index_grpc.configuration.flags import CommandByTopic, settings_options
from index_grpc.errors import StartupError
from index_grpc.logs import configure_logging, flush_log
from index_grpc.settings import ServeSettings

log = logging.getLogger(__name__)


@click.command(cls=CommandByTopic)
@settings_options
@click.option("--print-config", is_flag=True, help="Print the settings in effect as a file for --config, and exit.")
@click.pass_context
def serve(ctx: click.Context, /, print_config: bool, **_: object) -> None:
    """Serve a model until SIGINT, SIGTERM or SIGHUP.

    A flag overrides its environment variable, which overrides the file, which overrides the default.

    \b
    Example:
      index-grpc serve --model demo --port 50051

    \b
    Exit codes:
      0  stopped by a signal
      1  could not start with these settings, or lost its engine for good
      2  a setting is wrong in itself
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


def _serve_until_stopped(settings: ServeSettings) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters in its own log is reported as our error
    import uvloop

    from index_grpc.collector import freeze_heap
    from index_grpc.launch import extra_ports, load
    from index_grpc.machine import allow_open_files, open_standard_streams
    from index_grpc.server.lifetime import serve
    from index_grpc.server.loaded import Loaded

    # Only after the first load: while a lost engine is replaced calls are open, and their objects must be collected.
    freeze_once = functools.cache(freeze_heap)

    def load_for_good() -> Loaded:
        loaded = load(settings)
        freeze_once()
        return loaded

    open_standard_streams()
    allow_open_files()
    uvloop.run(serve(settings, load_for_good, extra_ports(settings)))


def _tell(error: StartupError, settings: ServeSettings) -> None:
    if settings.log_format == "json":
        log.error("%s", error)
    else:
        flush_log()  # what was logged came before
        click.echo(f"error: {error}", err=True)


def _exit(exit_code: int) -> NoReturn:
    from index_grpc.engine.worker import ENGINE_THREAD
    from index_grpc.server.loaded import LOADING_THREAD

    in_native_code = any(thread.name in (LOADING_THREAD, ENGINE_THREAD) for thread in threading.enumerate())
    if not flush_log() or in_native_code:
        # A normal exit would wait for whoever reads the log. Stopped while loading or during a step, a thread in
        # PyTorch's native code would crash it.
        os._exit(exit_code)
    sys.exit(exit_code)
