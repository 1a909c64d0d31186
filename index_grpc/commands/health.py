"""The command `index-grpc health`: a probe. It is started every few seconds, so it imports little."""

import math
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

if TYPE_CHECKING:
    import grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_SECONDS = 2.0
MOST_PORT = 65535
SCHEME = re.compile("^(dns|ipv(?P<version>[46])):(///)?")
HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^:\[\],\s/]+):(?P<port>[0-9]{1,5})")
UNIX_PATH = re.compile("(?P<scheme>unix(-abstract)?:)(?P<path>.+)")
UNESCAPED_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
SERVING, SERVICE_UNKNOWN, UNKNOWN, NOT_SERVING_EXIT_CODE = "SERVING", "SERVICE_UNKNOWN", "UNKNOWN", 1

# index-client uses the same codes.
EPILOG = """\b
Exit codes:
  0  the service is serving
  1  it is not: loading, stopping, without an engine, or not known; or the server refused to tell
  2  the command line is wrong
  3  the server cannot be reached
  4  the timeout passed"""

pem = click.Path(exists=True, dir_okay=False, path_type=Path)


class Unreachable(click.ClickException):
    """The server cannot be reached."""

    exit_code = 3


class TimedOut(click.ClickException):
    """The server does not answer."""

    exit_code = 4


@click.command(epilog=EPILOG, context_settings={"show_default": True})
@click.option(
    "--address",
    envvar="INDEX_GRPC_ADDRESS",
    show_envvar=True,
    default=DEFAULT_ADDRESS,
    help="The server's host:port, or unix:PATH.",
)
@click.option("--service", default="", help="What to ask about: '' is ready to answer calls, liveness is alive.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=DEFAULT_TIMEOUT_SECONDS,
    help="Seconds to wait for an answer.",
)
@click.option("--tls", is_flag=True, help="Encrypt, trusting the system's certificate authorities.")
@click.option("--ca", type=pem, help="Encrypt, trusting the certificates in this PEM file.")
@click.option("--cert", type=pem, help="Encrypt, showing the certificate in this PEM file; --key has its private key.")
@click.option("--key", type=pem, help="PEM file with the private key of --cert.")
@click.option("--server-name", help="Host name in the server's certificate, where --address is another.")
@click.option(
    "--api-key", envvar="INDEX_GRPC_API_KEY", show_envvar=True, help="For a server with --no-open-health: its key."
)
@click.pass_context
def health(
    ctx: click.Context,
    /,
    service: str,
    timeout: float,
    api_key: str | None,
    **where: Any,  # noqa: ANN401 - the arguments of _channel
) -> None:
    """Print whether a server is SERVING. The exit code is 0 only then.

    \b
    Examples:
      index-grpc health
      index-grpc health --service liveness --address unix:/run/index.sock
      index-grpc health --ca ca.pem --server-name index-grpc
    """
    if math.isnan(timeout):
        raise click.UsageError("--timeout is nan, which is not a number")
    _require_utf8("--service", service)
    _require_header("--api-key", api_key)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before gRPC is imported, otherwise it logs each connection
    with _channel(**where) as channel:
        status = _status(channel, where["address"], service, timeout, api_key)
    click.echo(status)
    ctx.exit(0 if status == SERVING else NOT_SERVING_EXIT_CODE)


def _channel(
    address: str, tls: bool, ca: Path | None, cert: Path | None, key: Path | None, server_name: str | None
) -> "grpc.Channel":
    _require_address(address)
    _require_header("--server-name", server_name)
    if bool(cert) != bool(key):
        raise click.UsageError("--cert and --key go together; give both")
    if server_name and not (tls or ca or cert):
        raise click.UsageError("--server-name goes with --tls, --ca or --cert; add one")
    import grpc

    address = _target(address)
    # A proxy is meant for downloading models, not for a server beside the probe.
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if not (tls or ca or cert):
        return grpc.insecure_channel(address, options)
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    roots, secret, chain = (file.read_bytes() if file else None for file in (ca, key, cert))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(roots, secret, chain), options)


def _require_address(address: str) -> None:
    """Raises UsageError for an invalid address: gRPC would replace an invalid port and ask another server.

    index-client has a rule of its own, but importing it would slow down every probe.
    """
    if not (address.isprintable() and (UNIX_PATH.fullmatch(address) or _names_hosts(address))):
        raise click.UsageError(f"--address is {address!r}; it should be host:port or unix:PATH")


def _target(address: str) -> str:
    """Returns gRPC's target: what a URI does not allow in a path is percent-encoded, unless it is already."""
    found = UNIX_PATH.fullmatch(address)
    if found is None:
        return address
    return found["scheme"] + quote(UNESCAPED_PERCENT.sub("%25", found["path"]), safe="/%")


def _names_hosts(address: str) -> bool:
    scheme, hosts = SCHEME.match(address), SCHEME.sub("", address)
    if scheme and scheme["version"]:
        return all(_is_host(host) and _is_ip(host, int(scheme["version"])) for host in hosts.split(","))
    return _is_host(hosts)


def _is_host(host: str) -> bool:
    found = HOST_AND_PORT.fullmatch(host)
    return found is not None and 0 < int(found["port"]) <= MOST_PORT


def _is_ip(host: str, version: int) -> bool:
    try:
        return ip_address(host.rpartition(":")[0].strip("[]")).version == version
    except ValueError:
        return False


def _require_header(flag: str, text: str | None) -> None:
    """Raises UsageError for a text that gRPC would refuse to send. The error does not show it: it may be a secret."""
    for place, character in enumerate(text or ""):
        if not " " <= character <= "~":
            found = f"{flag} holds {character!a} at character {place}"
            raise click.UsageError(f"{found}; allowed are printable ASCII characters")


def _require_utf8(flag: str, text: str) -> None:
    """Raises UsageError for bytes of the command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"{flag} holds {text[error.start]!a} at character {error.start}"
        raise click.UsageError(f"{found}, which is not UTF-8; allowed is any text in UTF-8") from None


def _status(channel: "grpc.Channel", address: str, service: str, timeout: float, api_key: str | None) -> str:
    """Returns the status's name, UNKNOWN if it has none here. Raises ClickException with the exit code."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    metadata = [("authorization", f"Bearer {api_key}")] if api_key else None
    try:
        answer = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=timeout, metadata=metadata)
    except grpc.RpcError as error:
        code = error.code()
        if code is grpc.StatusCode.NOT_FOUND:
            return SERVICE_UNKNOWN
        kinds = {grpc.StatusCode.UNAVAILABLE: Unreachable, grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut}
        problem = " ".join((error.details() or code.name).split())
        raise kinds.get(code, click.ClickException)(f"{address}: {problem}{_advice(problem)}") from None
    statuses = HealthCheckResponse.ServingStatus
    return str(statuses.Name(answer.status)) if answer.status in statuses.values() else UNKNOWN


def _advice(problem: str) -> str:
    """Returns index-client's advice on a connection that will always fail, behind a semicolon; empty if it has none.

    Only such a probe takes the time to import it: most that fail find no server yet.
    """
    if "last error" not in problem or "Connection refused" in problem:
        return ""
    from index_grpc_client.cli.failure import HINTS_ON_CONNECTING

    return next((f"; {advice}" for sign, advice in HINTS_ON_CONNECTING.items() if sign in problem), "")
