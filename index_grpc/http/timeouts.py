"""How long a connection may say nothing, and how many there may be: uvicorn waits for ever, and takes all that come."""

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from index_grpc.http.handshakes import Handshakes
from index_grpc.machine import most_connections
from index_grpc.server.listen import HTTP_SHARE

HEAD_SECONDS = 10.0
"""For the head of a request, from the connection's beginning or from the head's: as gRPC's port has it."""


class TimeoutConfig(Config):
    """That of a port whose connections are TimeoutProtocol's."""

    handshakes: Handshakes | None = None
    """None where connections are in the clear."""


def most_http_connections() -> int:
    """How many there may be at once."""
    return most_connections() // HTTP_SHARE


class TimeoutProtocol(H11Protocol):
    """One connection. A class made of uvicorn's, which leaves no other way to say it."""

    config: TimeoutConfig
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - its own type differs by event loop
        """Called by the event loop."""
        super().connection_made(transport)
        if self.config.handshakes is not None:
            self.config.handshakes.end(transport.get_extra_info("ssl_object"))
        if len(self.connections) > most_http_connections():
            transport.abort()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        super().data_received(data)
        if self._is_between_requests:
            self._await_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        """From its first byte on; more of them win no time."""
        if self._deadline is None and self.timeout_keep_alive_task is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
