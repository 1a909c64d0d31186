"""How often a caller may ask whether its connection lives, while the server has nothing to send."""

import asyncio
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, PingAckReceived
from index_grpc_client.channel import ChannelSettings

from index_grpc.server import listen
from tests.conftest import settings
from tests.server.fake_runner import fake_server

MANY = 10


def refusal_of_pings(address: str) -> bytes | None:
    """Pings many times, each time after the last answer; returns what the server ends that with, if it does."""
    host, _, port = address.rpartition(":")
    connection = H2Connection()
    connection.initiate_connection()
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        for _ in range(MANY):
            connection.ping(bytes(8))
            if (refused := _refused(connection, wire)) is not None:
                return refused
    return None


def _refused(connection: H2Connection, wire: socket.socket) -> bytes | None:
    """Waits for the answer to a ping; the server may end the connection with it, or in its place."""
    answers: list[object] = []
    while not answers:
        wire.sendall(connection.data_to_send())
        events = connection.receive_data(wire.recv(65_536))
        answers = [event for event in events if isinstance(event, PingAckReceived | ConnectionTerminated)]
    return next((answer.additional_data for answer in answers if isinstance(answer, ConnectionTerminated)), None)


async def test_a_connection_that_pings_too_often_is_closed() -> None:
    async with fake_server() as server:
        assert await asyncio.to_thread(refusal_of_pings, server.address) == b"too_many_pings"


async def test_the_servers_own_ping_interval_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's own is five minutes, in which a caller whose answer takes long asks more often."""
    monkeypatch.setattr(listen, "LEAST_PING_INTERVAL_MS", 0)
    async with fake_server() as server:
        assert await asyncio.to_thread(refusal_of_pings, server.address) is None


def test_grpc_knows_every_option_by_its_name() -> None:
    """It takes no notice of others, without a word."""
    found = find_spec("grpc._cython.cygrpc")
    assert found is not None
    known = Path(str(found.origin)).read_bytes()
    ours = [
        *listen.options(settings("fake", max_connection_age_seconds=1)),
        *ChannelSettings("a:1", False, None, None).channel_options(),
    ]
    assert [name for name, _ in ours if name.encode() + b"\0" not in known] == []
