"""The gRPC port: its address, its encryption and gRPC's options."""

import ipaddress
import logging
import os
import shlex
import socket
from typing import Any
from urllib.parse import quote

import grpc

from index_grpc.access.certificates import Certificates, certificate_files
from index_grpc.access.files import Reloaded
from index_grpc.errors import StartupError
from index_grpc.machine import most_connections
from index_grpc.server.binding import reason, trial
from index_grpc.server.unix_socket import permissions, require_free
from index_grpc.settings import ServeSettings

LEAST_PING_INTERVAL_MS = 10_000
"""The least time between a caller's pings while nothing is sent to it; the third early ping ends the connection."""
HTTP_SHARE = 4
"""One in this many of the connections that the system allows may be HTTP's, if the server answers HTTP."""
MOST_UNSEEN_CALLS = 20_000
"""The most calls that have arrived but have not been looked at. gRPC cancels more, and a client does not try those
again. By default gRPC begins to cancel at 1,000, which a burst reaches in no time."""

MOST_CALLS_OF_A_CONNECTION = 10_000
"""The most open calls of a connection, 20 KiB each; gRPC's default is no limit. A client holds more calls back until
others end, but not while it connects: the burst of an honest client must stay below."""

MOST_METADATA_BYTES = 16 * 1024
"""The most metadata of a call: its names and values, and 32 bytes for each. As gRPC's soft and hard limit are the same,
no call's fate is left to chance: between the two, gRPC refuses calls at random, and by default the soft one is half."""

log = logging.getLogger(__name__)


class GrpcPort:
    """The port that callers connect to: a TCP port, encrypted or not, or a unix socket."""

    def __init__(self, settings: ServeSettings) -> None:
        """Reads the certificates, if there are any. Raises StartupError if they cannot be used."""
        self._settings = settings
        self.certificates: Reloaded[Certificates] | None = None
        """What encrypts the TCP ports, HTTP's too. A unix socket is not encrypted."""
        if settings.tls_cert and settings.tls_key:
            self.certificates = certificate_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def open(self, server: grpc.aio.Server) -> str:
        """Binds the port and returns the address with the actual port. Raises StartupError if that is not possible."""
        path = self._settings.unix_socket
        if path is None:
            return self._open_tcp(server)
        require_free(path)
        address = f"unix:{quote(os.fsencode(path))}"  # gRPC parses it as a URI, on both sides
        with permissions(int(self._settings.unix_socket_mode, base=8)):
            if not _bound(server, address, None):
                raise StartupError(
                    f"cannot listen on --unix-socket {path}; check that this user may create files in that directory"
                )
        return address

    def client_options(self, address: str) -> str:
        """Returns the arguments that index-client needs to call this server."""
        given = ["--address", address]
        if self.certificates is not None and self._settings.unix_socket is None:
            host = address.rpartition(":")[0]
            hosts = self.certificates.value.hosts
            given += ["--ca", str(self._settings.tls_cert)]
            if hosts and host.strip("[]") not in hosts:
                given += ["--server-name", hosts[0]]
            if self._settings.tls_client_ca:
                given += ["--cert", "CERT.pem", "--key", "KEY.pem"]
        if self._settings.api_keys_file:
            given += ["--api-key", "KEY"]
        return shlex.join(given)

    def _open_tcp(self, server: grpc.aio.Server) -> str:
        host = bracketed(self._settings.host)
        port = _bound(server, f"{host}:{self._settings.port}", self.certificates)
        if not port:
            why = reason(trial(host.strip("[]"), self._settings.port), "--host", "--port")
            raise StartupError(f"cannot listen on {host}:{self._settings.port}: {why}")
        warn_if_exposed(self._settings, f"{host}:{port}")
        return f"{host}:{port}"


def warn_if_exposed(settings: ServeSettings, address: str) -> None:
    """Warns if other machines can reach the port without encryption or without access control."""
    if _is_loopback(address.rpartition(":")[0]):
        return
    dangers = []
    if not settings.tls_cert:
        dangers.append("traffic is not encrypted (set --tls-cert and --tls-key)")
    if not (settings.api_keys_file or settings.tls_client_ca):
        dangers.append("no API key is required (set --api-keys-file)")
    if dangers:
        log.warning("%s can be reached from other machines, and %s", address, " and ".join(dangers))


def options(settings: ServeSettings) -> list[tuple[str, int]]:
    """Returns the server's channel arguments."""
    return [
        *_ageing(settings),
        ("grpc.server.max_pending_requests", MOST_UNSEEN_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MOST_UNSEEN_CALLS),
        ("grpc.max_allowed_incoming_connections", _most_connections(settings)),
        ("grpc.max_concurrent_streams", MOST_CALLS_OF_A_CONNECTION),
        ("grpc.server_handshake_timeout_ms", 10_000),  # closes a connection that sends nothing; by default after 60 s
        ("grpc.so_reuseport", 0),  # otherwise a second server binds the same port and silently takes half the calls
        ("grpc.max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),  # the context bounds an answer; refusing it here would waste it
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_INTERVAL_MS),
    ]


def _most_connections(settings: ServeSettings) -> int:
    """Returns the limit of gRPC's connections, which leaves some to HTTP if the server answers it."""
    most = most_connections()
    return most if settings.http_port is None else most - most // HTTP_SHARE


def _ageing(settings: ServeSettings) -> list[tuple[str, int]]:
    age, grace = settings.max_connection_age_seconds, settings.max_connection_age_grace_seconds
    if age is None:
        return []
    return [
        ("grpc.max_connection_age_ms", round(age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(grace * 1000)),
    ]


def _bound(server: grpc.aio.Server, address: str, certificates: Reloaded[Certificates] | None) -> int:
    """Binds the address. Returns the actual port, or 0 if that is not possible."""
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(certificates))
    except RuntimeError:
        return 0


def _credentials(certificates: Reloaded[Certificates]) -> grpc.ServerCredentials:
    """Returns credentials that show each new connection the current certificate. gRPC asks in threads of its own."""
    shown = certificates.value

    def news() -> Any:  # noqa: ANN401 - the stubs do not say that nothing new is None
        nonlocal shown
        if certificates.value is shown:
            return None
        shown = certificates.value
        return _configuration(shown)

    wants_certificate = shown.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(_configuration(shown), news, wants_certificate)


def _configuration(found: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], found.client_ca)


def bracketed(host: str) -> str:
    """Returns a host as it is written before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host.strip("[]"), None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)
