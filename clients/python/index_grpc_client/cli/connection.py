"""The options of the command line that say which server to call, and how."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc
from click.core import ParameterSource

from index_grpc_client.aio_client import AsyncClient
from index_grpc_client.channel import DEFAULT_ADDRESS, allowed_address
from index_grpc_client.cli.checking import checked, refusing
from index_grpc_client.cli.failure import Call
from index_grpc_client.credentials import tls_credentials
from index_grpc_client.limits import allowed_header, allowed_timeout
from index_grpc_client.request import QUICK_TIMEOUT

Command = TypeVar("Command", bound=Callable[..., Any])

CHECKS: dict[str, Callable[[Any, str], object]] = {
    "address": allowed_address,
    "timeout": allowed_timeout,
    "server_name": allowed_header,
    "api_key": allowed_header,
}
"""What checks a field of a Connection, once it is known which value counts."""


@dataclass(frozen=True)
class Connection:
    """The options with which the commands reach the server.

    The commands use asyncio, because there Ctrl-C cancels the call that is awaited. In synchronous code it would raise
    KeyboardInterrupt at any place inside gRPC.
    """

    address: str
    timeout: float
    tls: bool
    ca: Path | None
    cert: Path | None
    key: Path | None
    server_name: str | None
    api_key: str | None

    def client(self) -> AsyncClient:
        """Returns a client, which the caller must close."""
        with refusing():
            return AsyncClient(
                self.address,
                credentials=self._credentials(),
                api_key=self.api_key or None,
                timeout=self.timeout,
                channel_options={"grpc.ssl_target_name_override": self.server_name} if self.server_name else None,
            )

    def call(self, generates: bool) -> Call:
        """Returns what to report about a call that fails."""
        return Call(self.address, self.timeout if generates else min(self.timeout, QUICK_TIMEOUT), generates)

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if not (self.tls or self.ca or self.cert or self.key):
            if self.server_name:
                raise click.UsageError("--server-name goes with --tls, --ca or --cert; add one")
            return None
        if bool(self.cert) != bool(self.key):
            raise click.UsageError("--cert and --key go together; give both")
        try:
            return tls_credentials(self.ca, cert=self.cert, key=self.key)
        except OSError as error:
            problem = error.strerror or error
            raise click.UsageError(f"a file of --ca, --cert or --key cannot be read: {problem}") from error


def connection_options(command: Command) -> Command:
    """Adds the options of a Connection to a command."""
    options = [
        click.option(
            "--address",
            envvar="INDEX_GRPC_ADDRESS",
            default=DEFAULT_ADDRESS,
            show_default=True,
            show_envvar=True,
            help="The server's host:port, or unix:PATH.",
        ),
        click.option(
            "--timeout",
            type=click.FLOAT,
            default=600.0,
            show_default=True,
            help="Seconds to wait for an answer; count, health and model wait at most 30.",
        ),
        click.option("--tls", is_flag=True, help="Encrypt, trusting the system's certificate authorities."),
        click.option(
            "--ca",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Encrypt, trusting the certificates in this PEM file.",
        ),
        click.option(
            "--cert",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Encrypt, and send the certificate in this PEM file; --key has its private key.",
        ),
        click.option(
            "--key",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="PEM file with the private key of the certificate of --cert.",
        ),
        click.option(
            "--server-name",
            help="Host name in the server's certificate, if it differs from that of --address.",
        ),
        click.option(
            "--api-key",
            envvar="INDEX_GRPC_API_KEY",
            show_envvar=True,
            help="The API key, if the server asks for one.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def behind_command(option: click.Parameter) -> click.Parameter:
    """Returns an option of the connection for use after the command, where it overrides the one before the command.

    Only the value that counts is checked.
    """
    behind = copy(option)

    def override(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
        name = str(parameter.name)
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            ctx.obj = ctx.find_root().obj = replace(ctx.obj, **{name: value})
        else:
            ctx = ctx.find_root()
        if name in CHECKS:
            checked(CHECKS[name])(ctx, parameter, getattr(ctx.obj, name))

    behind.callback, behind.expose_value = override, False
    return behind
