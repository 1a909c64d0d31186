"""Calls without gRPC's own client, which does not show some trailers."""

import socket

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamEnded, TrailersReceived

Headers = dict[str, str]


def headers_and_trailers(address: str, path: str, message: bytes) -> Headers:
    """The headers and trailers of a call with one request message. Blocks until the call has ended."""
    return answer_to(address, path, b"\0" + len(message).to_bytes(4) + message)


def answer_to(address: str, path: str, data: bytes) -> Headers:
    """The headers and trailers of a call that sends these bytes, whether they are a message or not."""
    host, _, port = address.rpartition(":")
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    asked = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address, "te": "trailers"}
    connection.send_headers(1, [*asked.items(), ("content-type", "application/grpc")])
    connection.send_data(1, data, end_stream=True)
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        return _read(connection, wire)


def _read(connection: H2Connection, wire: socket.socket) -> Headers:
    found: Headers = {}
    while True:
        wire.sendall(connection.data_to_send())
        for event in connection.receive_data(wire.recv(65_536)):
            if isinstance(event, ResponseReceived | TrailersReceived):
                found |= {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, StreamEnded):
                return found
