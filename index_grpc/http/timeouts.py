"""Limits of time, number and heads for HTTP connections; uvicorn waits for ever and takes all that come."""

import asyncio
import sys
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from index_grpc.http import malformed
from index_grpc.http.handshakes import Handshakes
from index_grpc.machine import most_connections
from index_grpc.server.calls import without_frames
from index_grpc.server.listen import HTTP_SHARE

HEAD_SECONDS = 10.0
"""The time limit of a request's head, from the start of the connection or of the head; gRPC's port has the same.

It is also that of the rest of a body, from an answer that was sent before the body had come.
"""

PIECE_BYTES = 16 * 1024
"""At most so much of what arrives is parsed at once. h11 lets a head that is not complete have 16 KiB, but measures it
only when all that has been read so far is parsed, so that without pieces a head of any size could pass."""


class TimeoutConfig(Config):
    """uvicorn's configuration of a port whose connections use TimeoutProtocol."""

    handshakes: Handshakes | None = None
    """None if connections are not encrypted."""


def most_http_connections() -> int:
    """Returns how many HTTP connections may be open at once."""
    return most_connections() // HTTP_SHARE


class TimeoutProtocol(H11Protocol):
    """One connection with these limits. A subclass, since uvicorn's settings cannot express them."""

    config: TimeoutConfig
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - its own type differs by event loop
        """Called by the event loop."""
        super().connection_made(transport)
        self.app = self._bodies = malformed.BodyWatch(self.app)
        if self.config.handshakes is not None:
            self.config.handshakes.end(transport.get_extra_info("ssl_object"))
        if len(self.connections) > most_http_connections():
            transport.abort()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        for start in range(0, len(data), PIECE_BYTES):
            if self.transport.is_closing():  # what came before was refused
                break
            super().data_received(data[start : start + PIECE_BYTES])
        if not self._is_between_requests:
            self._stop_waiting()
        elif self._is_idle:  # what came was the rest of a body whose request had been answered before
            self._stop_waiting()
            self._await_request()
        else:
            self._await_head()

    def on_response_complete(self) -> None:
        """Called when an answer has been sent.

        If it came before the whole body, as a 413 may, the rest of the body is dropped for a while. To close at once
        would reset the connection of a caller who is still sending, and many would not see the answer.
        """
        super().on_response_complete()
        if self._is_between_requests and self.conn.their_state is h11.SEND_BODY:
            self._unset_keepalive_if_required()
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles h11's error. Has it answered, unless an answer has begun, and closes."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError):
            if self.conn.our_state is h11.SEND_RESPONSE:  # the head was valid: its handler answers, and h11 then closes
                self._bodies.error = self._bodies.error or without_frames(error)  # its frames refer to this
                self.cycle.message_event.set()
                return
            if self.conn.our_state is h11.IDLE:
                response = malformed.refused(error, self.client)
                for event in malformed.events(response, self.server_state.default_headers):
                    self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._stop_waiting()
        self._unset_keepalive_if_required()  # uvicorn lets the timer of a connection that is reset run on
        super().connection_lost(exc)

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _is_idle(self) -> bool:
        """Whether the last request has come whole and nothing of the next one."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _await_request(self) -> None:
        """Starts the time limit of an idle connection again, which uvicorn ends when anything arrives."""
        if self.timeout_keep_alive_task is None:
            close = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, close)

    def _await_head(self) -> None:
        """Starts the time limit of a head; later bytes do not extend it."""
        if self._deadline is None and self.timeout_keep_alive_task is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
