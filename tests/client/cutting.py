"""A raw HTTP/2 server that begins an answer and then cuts it off, in each way in which proxies report a lost server."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived
from index_grpc_client.v1 import chat_pb2

Cut = Callable[[H2Connection, int], None]
"""Ends a stream of the connection."""


def reset(code: ErrorCodes) -> Cut:
    """Resets the stream, as Envoy does with INTERNAL_ERROR."""
    return lambda connection, stream: connection.reset_stream(stream, code)


def end(connection: H2Connection, stream: int) -> None:
    """Ends the stream without a status, as HAProxy does."""
    connection.end_stream(stream)


def hang_up(connection: H2Connection, stream: int) -> None:
    """Closes the connection, as happens when the server itself dies."""


def begin(connection: H2Connection, stream: int, delta: str) -> None:
    message = chat_pb2.ChatStreamResponse(delta=delta, start=chat_pb2.Start(id="r1")).SerializeToString()
    connection.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
    connection.send_data(stream, b"\0" + len(message).to_bytes(4) + message)


class CuttingServer:
    """Begins each answer with `delta`, if there is one, and cuts it off when allowed. Serves connections in turn."""

    def __init__(self, cut: Cut, delta: str) -> None:
        self._cut, self._delta = cut, delta
        self._listener = self._wire = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.may_cut = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_cut.set()
        for wire in (self._listener, self._wire):
            with suppress(OSError):  # the caller may have left already
                wire.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._wire, _ = self._listener.accept()
                with self._wire, suppress(ConnectionError):
                    self._answer(self._wire)

    def _answer(self, wire: socket.socket) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        wire.sendall(connection.data_to_send())
        while data := wire.recv(65_536):
            asked = [event for event in connection.receive_data(data) if isinstance(event, DataReceived)]
            for stream in (event.stream_id for event in asked if event.stream_id):
                if self._delta:
                    begin(connection, stream, self._delta)
                    wire.sendall(connection.data_to_send())
                assert self.may_cut.wait(30)
                self._cut(connection, stream)
                if self._cut is hang_up:
                    return
            wire.sendall(connection.data_to_send())
