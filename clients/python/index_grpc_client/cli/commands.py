"""The commands of `index-client`."""

import asyncio
import dataclasses
import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import grpc

from index_grpc_client.aio_client import AsyncClient
from index_grpc_client.cli.ask import ask, read_prompt, to_json
from index_grpc_client.cli.chat import chat
from index_grpc_client.cli.checking import checked, refusing
from index_grpc_client.cli.connection import Connection, behind_command, connection_options
from index_grpc_client.cli.failure import EXIT_CODES, Exit, complain, exit_code, report
from index_grpc_client.cli.interrupt import interruptible
from index_grpc_client.cli.output import Command, OutputLost, put, require_output, writing
from index_grpc_client.errors import IndexGrpcError
from index_grpc_client.limits import allowed_timeout, require_utf8
from index_grpc_client.model import ModelInfo, TokenCount
from index_grpc_client.request import given
from index_grpc_client.result import HealthStatus
from index_grpc_client.version import __version__

SHORT_WAIT_S = 1.0


@contextmanager
def one_line_usage_errors() -> Iterator[None]:
    """Reports a wrong command line like any other error, instead of with the several lines of click."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        complain("error", error.format_message())
        complain("hint", f"`{error.ctx.command_path if error.ctx else 'index-client'} --help` shows the usage")
        raise click.exceptions.Exit(error.exit_code) from error


class Commands(click.Group):
    """Turns the exceptions of commands into messages and exit codes."""

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - click's own
        """Runs a command and exits. If the reader of the output closes its pipe, click handles it."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # it is None if it was closed from the start
                stream.reconfigure(errors="replace")  # one character that the encoding lacks must not lose the rest
        try:
            return super().main(*args, **options)
        except OutputLost as error:
            complain("error", f"the output cannot be written: {error}")
            os._exit(Exit.REFUSED)  # otherwise Python would try to write the rest again, and report it

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the options before the command."""
        with one_line_usage_errors(), writing():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command."""
        try:
            with one_line_usage_errors():
                return super().invoke(ctx)
        except IndexGrpcError as error:
            report(error, ctx.obj.call(generates=ctx.invoked_subcommand == "ask"))
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@connection_options
@click.version_option(__version__)
@click.pass_context
def index_client(ctx: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - the fields of Connection
    """Talk to an index-grpc server."""
    ctx.obj = Connection(**options)


@contextmanager
def noting_a_wait(address: str, seconds: float) -> Iterator[None]:
    """Tells a person at a terminal what the block waits for, unless it ends soon."""

    def tell() -> None:
        if sys.stderr is not None and sys.stderr.isatty():  # it is None if it was closed from the start
            limit = "" if math.isinf(seconds) else f" up to {seconds:g} s"
            complain("note", f"waiting{limit} for {address} to be SERVING; Ctrl-C ends it")

    telling = asyncio.get_running_loop().call_later(SHORT_WAIT_S, tell)
    try:
        yield
    finally:
        telling.cancel()


async def health_once_ready(client: AsyncClient, service: str, seconds: float) -> HealthStatus:
    """Waits until the service is SERVING, unless there is no such service."""
    try:
        await client.wait_until_ready(seconds, service)
    except IndexGrpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return HealthStatus.SERVICE_UNKNOWN
    return HealthStatus.SERVING


@click.command(cls=Command)
@click.option("--service", default="", help="The service whose health to print. Default: the whole server.")
@click.option(
    "--wait",
    type=click.FLOAT,
    metavar="SECONDS",
    callback=checked(allowed_timeout),
    help="Wait until it is SERVING, for at most SECONDS, instead of --timeout; fail if it is not.",
)
@click.pass_obj
def health(connection: Connection, service: str, wait: float | None) -> None:
    """Print the health of the server, with the retries of every call. The exit code is 0 only if it is SERVING.

    \b
    Example, for a script that has just started a server:
      index-client health --wait 60 && index-client ask Hello
    """

    with refusing():
        require_utf8({"service": service})

    @interruptible
    async def ask_health() -> HealthStatus:
        async with connection.client() as client:
            if wait is None:
                return await client.health(service)
            with noting_a_wait(connection.address, wait):
                return await health_once_ready(client, service, wait)

    status = asyncio.run(ask_health())
    put(status)
    if status is not HealthStatus.SERVING:
        raise click.exceptions.Exit(Exit.REFUSED)


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def model(connection: Connection, as_json: bool) -> None:
    """Print the served model, its limits and the defaults of options."""

    require_output()

    @interruptible
    async def ask_model() -> ModelInfo:
        async with connection.client() as client:
            return await client.model()

    info = asyncio.run(ask_model())
    if as_json:
        put(to_json(info))
        return
    facts = dataclasses.asdict(info)
    sampling = facts.pop("default_sampling")
    for name, value in (facts | {f"default_{name}": value for name, value in sampling.items()}).items():
        put(f"{name}: {'none' if value == '' else value}")


@click.command(cls=Command)
@click.argument("prompt", nargs=-1)
@click.option("--system", help="Instructions for the model; they are counted too.")
@click.option("--model", help="The model that must count; fail if another one is served.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with the tokens left for an answer.")
@click.pass_obj
def count(
    connection: Connection, prompt: tuple[str, ...], system: str | None, model: str | None, as_json: bool
) -> None:
    """Print how many tokens PROMPT has, control tokens included.

    The words of PROMPT are joined. `-` stands for standard input, which is also used if there is no PROMPT.
    """
    require_output()
    text = read_prompt(prompt)
    with refusing():
        require_utf8(given(prompt=text, system=system, model=model))

    @interruptible
    async def ask_count() -> TokenCount:
        async with connection.client() as client:
            return await client.count_tokens(text, system=system, model=model)

    tokens = asyncio.run(ask_count())
    put(to_json(tokens) if as_json else tokens.prompt_tokens)


for command in (ask, chat, count, health, model):
    command.params += [behind_command(option) for option in index_client.params if option.expose_value]
    index_client.add_command(command)
