"""The HTTP port: opened and closed with the server, served on its event loop."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from index_grpc.errors import StartupError
from index_grpc.http.handshakes import HANDSHAKE_SECONDS, Handshakes
from index_grpc.http.routes import routes
from index_grpc.http.timeouts import TimeoutConfig, TimeoutProtocol, most_http_connections
from index_grpc.server.app import App
from index_grpc.server.binding import BIND_ERRORS, reason
from index_grpc.server.listen import bracketed, warn_if_exposed

BACKLOG = 2048
IDLE_SECONDS = 75
"""How long a connection may be idle: longer than common clients and load balancers keep theirs."""
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 60, 20
"""As for gRPC's connections: after how long a silence TCP probes the other end, and how often it repeats that."""
FLUSH_SECONDS = 2
"""How long callers may take to read complete answers before the port closes."""

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its process, and limits the time of handshakes."""

    config: TimeoutConfig

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn."""
        await super().startup([])
        loop, context = asyncio.get_running_loop(), self.config.handshakes
        for listener in sockets or ():
            self.servers.append(
                await loop.create_server(
                    self._protocol,
                    sock=listener,
                    ssl=context,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
                    backlog=BACKLOG,
                )
            )

    def _protocol(self) -> TimeoutProtocol:
        return TimeoutProtocol(self.config, self.server_state, self.lifespan.state)

    def may_begin(self, num_handshakes: int) -> bool:
        """Whether one more connection is allowed while this many handshakes are going on."""
        return len(self.server_state.connections) + num_handshakes < most_http_connections()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures no signals."""
        yield


class HttpPort:
    """The HTTP port. See ExtraPort."""

    def __init__(self, app: App) -> None:
        self.address = ""
        settings = app.settings
        self._host, self._port = (settings.http_host or settings.host).strip("[]"), settings.http_port or 0
        self._settings, self._certificates = settings, app.access.port.certificates
        self._server = Server(_config(app))
        if self._certificates:
            self._server.config.handshakes = Handshakes.of(self._certificates, self._server.may_begin)
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See ExtraPort."""
        listener = _listener(self._host, self._port)
        self.address = f"{bracketed(self._host)}:{listener.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        log.info("listening on %s://%s", "https" if self._certificates else "http", self.address)
        warn_if_exposed(self._settings, self.address)

    async def close(self) -> None:
        """See ExtraPort."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving})  # does not cancel the task if this is cancelled itself


def _config(app: App) -> TimeoutConfig:
    return TimeoutConfig(
        routes(app),
        http=TimeoutProtocol,  # on h11, which limits the size of a head; httptools, hardly faster, does not
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # our log has a line for each call; uvicorn would only add callers who left
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )


def _listener(host: str, port: int) -> socket.socket:
    """Opens the listening socket. On the IPv6 address of all interfaces it takes IPv4 connections too."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found)  # IPv4 first
        both = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except BIND_ERRORS as error:
        why = reason(error, "--http-host", "--http-port")
        raise StartupError(f"cannot listen on {bracketed(host)}:{port} for HTTP: {why}") from None
    _tune(listener)
    return listener


def _tune(listener: socket.socket) -> None:
    """Sets options that accepted connections inherit."""
    # Otherwise a small write waits until the one before it is acknowledged, which takes 40 ms or more.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not on all systems; by default a lost caller is noticed after hours
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_TIMEOUT_SECONDS)
