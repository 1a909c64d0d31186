"""The port that Prometheus reads the metrics from, over plain HTTP, at /metrics."""

import logging
import socket
import socketserver
import threading
from http import HTTPStatus
from io import BytesIO

from prometheus_client import CollectorRegistry, MetricsHandler

from index_grpc.errors import StartupError
from index_grpc.server.binding import BIND_ERRORS, reason
from index_grpc.server.listen import bracketed

PATH = "/metrics"
POLL_SECONDS = 0.1
"""The longest that closing the port may take."""
REQUEST_SECONDS = 10.0
"""How long a reader may send nothing."""

log = logging.getLogger(__name__)


class MetricsPort:
    """Answers in threads, so that neither loading nor the event loop delays it."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self.address = ""
        """host:port once it is open."""
        self._registry, self._host, self._port = registry, host.strip("[]"), port
        self._server: _Server | None = None

    def open(self) -> None:
        """Opens the port. Raises StartupError if that is not possible."""
        host = bracketed(self._host)
        try:
            self._server = _server_at(self._host, self._port, _Handler.factory(self._registry))
        except BIND_ERRORS as error:
            why = reason(error, "--metrics-host", "--metrics-port")
            raise StartupError(f"cannot listen on {host}:{self._port} for metrics: {why}") from None
        self.address = f"{host}:{self._server.server_address[1]}"
        work = {"poll_interval": POLL_SECONDS}
        threading.Thread(target=self._server.serve_forever, kwargs=work, name="metrics", daemon=True).start()
        log.info("metrics on http://%s%s", self.address, PATH)

    def close(self) -> None:
        """Closes the port. Does nothing if it is not open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Handler(MetricsHandler):
    timeout = REQUEST_SECONDS
    error_content_type, error_message_format = "text/plain", "%(explain)s\n"

    def do_GET(self) -> None:  # noqa: N802 - its name in the library
        """Called for each GET."""
        if self.path.partition("?")[0] == PATH:
            super().do_GET()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"the metrics are at {PATH}")

    def do_HEAD(self) -> None:  # noqa: N802 - its name in the library
        """Called for each HEAD, which is answered like GET, without a body."""
        self.do_GET()

    def end_headers(self) -> None:
        """Called after the last header."""
        super().end_headers()
        if self.command == "HEAD":
            self.wfile = BytesIO()  # what follows is the body; the connection ends with this answer


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128  # connections that wait to be accepted

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs a reader who leaves at the debug level only, since that is normal."""
        log.debug("a reader of the metrics left", exc_info=True)


def _server_at(host: str, port: int, handler: type) -> _Server:
    """Returns a server at the address, in IPv4 or IPv6."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]

    class Server(_Server):
        address_family = family

    return Server(address, handler)  # type: ignore[arg-type] # IPv6 addresses have four parts
