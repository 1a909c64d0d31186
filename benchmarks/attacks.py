"""What broken and hostile clients do to a server; `abuse.py` watches the server meanwhile."""

import gzip
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from hpack import Encoder
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame
from peer_by_hand import (
    CHAT,
    PREFACE,
    STREAM,
    WELL_FORMED,
    Peer,
    connect,
    message,
    request_headers,
    seconds_until_closed,
)

ANSWER_SECONDS = 20.0
MIB = 2**20


@dataclass
class Attack:
    """The extent of an attack, and its results."""

    address: str
    size: int
    """How many connections, calls or frames the attack makes, by its kind."""
    patience_seconds: float
    """How long to wait for the server to end the connections."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Number of calls by grpc-status."""
    ended_seconds: float | None = None
    """Seconds until the server had ended the last connection that it should end; None if it did not."""

    def await_end(self, connections: list[socket.socket]) -> None:
        """Waits until the server has ended all connections."""
        started = time.monotonic()
        for one in connections:
            left = started + self.patience_seconds - time.monotonic()
            if seconds_until_closed(one, max(0.001, left)) is None:
                return
        self.ended_seconds = time.monotonic() - started


@contextmanager
def opened(connections: Iterator[socket.socket]) -> Iterator[list[socket.socket]]:
    """The connections that were not refused, which are closed at the end."""
    alive: list[socket.socket] = []
    try:
        with suppress(ConnectionError):
            alive.extend(connections)
        yield alive
    finally:
        for one in alive:
            one.close()


def says_nothing(attack: Attack) -> None:
    """Opens connections and sends nothing."""
    with opened(connect(attack.address) for _ in range(attack.size)) as connections:
        attack.await_end(connections)


def half_a_preface(attack: Attack) -> None:
    """Sends only a part of the first line on each connection."""
    with opened(connect(attack.address) for _ in range(attack.size)) as connections:
        for one in connections:
            one.sendall(PREFACE[:12])
        attack.await_end(connections)


def many_connections(attack: Attack) -> None:
    """Keeps many correct connections open and idle."""
    peers = [Peer(attack.address) for _ in range(attack.size)]
    for peer in peers[:: max(1, attack.size // 20)]:
        attack.statuses[peer.status(peer.ask(), ANSWER_SECONDS)] += 1
    for peer in peers:
        peer.socket.close()


def never_reads(attack: Attack) -> None:
    """Opens streams with a window of 0 on a connection, and then answers nothing any more."""
    peer = Peer(attack.address, window=0)
    with suppress(ConnectionError):
        for _ in range(attack.size):
            peer.ask(path=STREAM)
    attack.await_end([peer.socket])
    peer.socket.close()


def slow_headers(attack: Attack) -> None:
    """Sends headers one byte at a time, without the last byte."""
    peer = Peer(attack.address)
    block = Encoder().encode(request_headers())
    data = HeadersFrame(1, block, flags=["END_HEADERS"]).serialize()
    with suppress(OSError):
        for place in range(min(attack.size, len(data) - 1)):
            peer.socket.sendall(data[place : place + 1])
            if seconds_until_closed(peer.socket, 0.01) is not None:
                break
    attack.await_end([peer.socket])
    peer.socket.close()


def rapid_resets(attack: Attack) -> None:
    """Resets each call as soon as it is made."""
    peer = Peer(attack.address)
    encoder = Encoder()
    with suppress(OSError):
        for number in range(1, 2 * attack.size, 2):
            block = encoder.encode(request_headers(STREAM))
            peer.send(HeadersFrame(number, block, flags=["END_HEADERS"]), RstStreamFrame(number, error_code=8))
    attack.await_end([peer.socket])
    peer.socket.close()


def ping_flood(attack: Attack) -> None:
    """Sends pings without pause."""
    flood(attack, PingFrame(0, b"ruderude").serialize())


def settings_flood(attack: Attack) -> None:
    """Sends settings without pause, each of which must be acknowledged."""
    flood(attack, SettingsFrame(0, {4: 2**16}).serialize())


def continuation_flood(attack: Attack) -> None:
    """Sends headers that never end."""
    block = Encoder().encode([("x-filler", "x" * 8000)])
    start = HeadersFrame(1, Encoder().encode(request_headers())).serialize()
    flood(attack, ContinuationFrame(1, block).serialize(), start)


def flood(attack: Attack, frame: bytes, start: bytes = b"") -> None:
    """Sends the same frame again and again without reading."""
    peer = Peer(attack.address)
    peer.socket.settimeout(attack.patience_seconds)
    with suppress(OSError):
        peer.socket.sendall(start)
        for _ in range(attack.size // 100 + 1):
            peer.socket.sendall(frame * 100)
    attack.await_end([peer.socket])
    peer.socket.close()


def false_lengths(attack: Attack) -> None:
    """Sends messages with false lengths of 100 MiB and 4 GiB."""
    peer = Peer(attack.address)
    for place in range(attack.size):
        length = (100 * MIB, 2**32 - 1)[place % 2]
        number = peer.ask(message(b"x" * 1000, length=length), end=False)
        attack.statuses[peer.status(number, ANSWER_SECONDS)] += 1
    peer.socket.close()


def large_messages(attack: Attack) -> None:
    """Sends messages of the largest allowed size, without their last bytes."""
    peers = [Peer(attack.address) for _ in range(attack.size)]
    for peer in peers:
        with suppress(ConnectionError):
            peer.ask(message(b"x" * (15 * MIB), length=16 * MIB), end=False)
    for peer in peers:
        peer.socket.close()


def bombs(attack: Attack) -> None:
    """Sends compressed zeros: few KiB, but far above the limit when they are decompressed."""
    body = message(gzip.compress(bytes(64 * MIB)), compressed=True)
    for _ in range(attack.size):
        peer = Peer(attack.address)
        number = peer.ask(body, headers=[("grpc-encoding", "gzip")])
        attack.statuses[peer.status(number, ANSWER_SECONDS)] += 1
        peer.socket.close()


def wrong_headers(attack: Attack) -> None:
    """Sends requests that are not gRPC calls, and calls with wrong headers."""
    odd: list[tuple[str, list[tuple[str, str]]]] = [
        (CHAT, [("content-type", "text/html")]),
        (CHAT, [("content-type", "application/json")]),
        (CHAT, [(":method", "GET")]),
        (CHAT, [("te", "gzip")]),
        (CHAT, [("grpc-timeout", "soon")]),
        (CHAT, [("grpc-timeout", "99999999H")]),
        (CHAT, [("grpc-timeout", "0n")]),
        (CHAT, [("grpc-encoding", "brotli")]),
        (CHAT, [("grpc-previous-rpc-attempts", "9" * 4000)]),
        (CHAT, [("x-request-id", "\x7f")]),
        (CHAT, [("x-filler", "x" * 20_000)]),
        ("/index.v1.ChatService/Sing", []),
        ("/", []),
        ("", []),
        ("/../../etc/passwd", []),
        ("/" + "x" * 4000, []),
    ]
    for _ in range(attack.size):
        for path, headers in odd:
            peer = Peer(attack.address)
            with suppress(ConnectionError):
                attack.statuses[peer.status(peer.ask(path=path, headers=headers), ANSWER_SECONDS)] += 1
            peer.socket.close()


def browsers(attack: Attack) -> None:
    """Sends HTTP/1.1."""
    for _ in range(attack.size):
        connection = connect(attack.address)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        attack.await_end([connection])
        connection.close()


def resets_of_connections(attack: Attack) -> None:
    """Cuts connections during a call."""
    for _ in range(attack.size):
        peer = Peer(attack.address)
        peer.ask(WELL_FORMED, STREAM)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()


ATTACKS: dict[Callable[[Attack], None], tuple[int, int]] = {
    says_nothing: (20, 1000),
    half_a_preface: (20, 1000),
    many_connections: (200, 10_000),
    never_reads: (50, 120),
    slow_headers: (20, 200),
    rapid_resets: (2000, 20_000),
    ping_flood: (2000, 100_000),
    settings_flood: (2000, 100_000),
    continuation_flood: (200, 10_000),
    false_lengths: (4, 50),
    large_messages: (4, 40),
    bombs: (1, 20),
    wrong_headers: (1, 20),
    browsers: (5, 100),
    resets_of_connections: (50, 2000),
}
"""The attacks, with their sizes in the test suite and in the benchmark."""
