"""A connection to a gRPC server on which we choose every byte."""

import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived, WindowUpdated
from h2.exceptions import ProtocolError
from hyperframe.frame import Frame
from index_grpc_client.v1 import chat_pb2 as pb

CHAT, STREAM = "/index.v1.ChatService/Chat", "/index.v1.ChatService/ChatStream"
QUESTION = pb.ChatRequest(prompt="Hi", max_tokens=4, sampling=pb.SamplingParams(seed=1))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LONGEST_CONNECT_SECONDS = 30.0


def message(body: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """A message as gRPC frames it, or with a false length."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


WELL_FORMED = message(QUESTION.SerializeToString())


def connect(address: str) -> socket.socket:
    """A plain connection."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), LONGEST_CONNECT_SECONDS)


class Peer:
    """One HTTP/2 connection. Reads only when told to."""

    def __init__(self, address: str, *, window: int | None = None) -> None:
        self.socket = connect(address)
        config = H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = H2Connection(config)
        if window is not None:
            self.h2.local_settings.initial_window_size = window
        self.h2.initiate_connection()
        self.flush()
        self.answers: dict[int, dict[str, str]] = defaultdict(dict)
        """The headers and trailers of each stream that the server has answered."""

    def flush(self) -> None:
        """Sends the pending bytes."""
        self.socket.sendall(self.h2.data_to_send())

    def send(self, *frames: Frame) -> None:
        """Sends frames without checking any rule."""
        self.socket.sendall(b"".join(frame.serialize() for frame in frames))

    def ask(
        self, body: bytes = WELL_FORMED, path: str = CHAT, headers: Iterable[tuple[str, str]] = (), *, end: bool = True
    ) -> int:
        """Begins a call and returns the number of its stream."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, request_headers(path, headers))
        while body:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room == 0:
                self.flush()
                self.read(until=WindowUpdated)
                continue
            self.h2.send_data(number, body[:room])
            body = body[room:]
        if end:
            self.h2.end_stream(number)
        self.flush()
        return number

    def read(self, until: type[Event]) -> None:
        """Reads until an event of this kind comes. Raises ConnectionError at the end of the connection."""
        while True:
            data = self.socket.recv(2**16)
            if not data:
                raise ConnectionError("the server has closed the connection")
            events = self.h2.receive_data(data)
            self.flush()
            for event in events:
                self._note(event)
            if any(isinstance(event, until) for event in events):
                return

    def status(self, number: int, seconds: float) -> str:
        """How a call ends: its grpc-status, else its HTTP status, `reset` or `closed`; after `seconds`, `silent`."""
        self.socket.settimeout(seconds)
        try:
            while "end" not in self.answers[number]:
                self.read(until=Event)
        except TimeoutError:
            return "silent"
        except (ConnectionError, ProtocolError):
            return "closed"
        found = self.answers[number]
        return found.get("grpc-status", found["end"])

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            self.answers[event.stream_id or 0].update((str(name), str(value)) for name, value in event.headers or ())
        elif isinstance(event, StreamReset):
            self.answers[event.stream_id].setdefault("end", "reset")
        elif isinstance(event, StreamEnded):
            answer = self.answers[event.stream_id or 0]
            answer.setdefault("end", f"HTTP {answer.get(':status')}")


def request_headers(path: str = CHAT, more: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The headers of a call; `more` may replace some."""
    usual = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    usual |= {"content-type": "application/grpc", "te": "trailers"}
    return list((usual | dict(more)).items())


def seconds_until_closed(connection: socket.socket, most_seconds: float) -> float | None:
    """The seconds until the server ends the connection; None if it does not end it in `most_seconds`."""
    started = time.monotonic()
    while (left := started + most_seconds - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            if not connection.recv(2**16):
                return time.monotonic() - started
        except TimeoutError:
            return None
        except OSError:
            return time.monotonic() - started
    return None
