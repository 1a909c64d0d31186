"""Messages before they are parsed: they must come in time, be complete, and have few fields."""

import asyncio
import logging
import socket
import struct
from typing import Any

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.errors import InvalidRequest, PromptTooLong
from index_grpc.server.message import MOST_OTHER_FIELDS, parsed
from index_grpc.server.servicer import SERVICE
from tests.server.asking import refusal, unary
from tests.server.fake_runner import fake_server, letters
from tests.server.test_errors import raw_call

CONTEXT_LENGTH = 100
REQUEST, TEXT = pb.ChatRequest(prompt="Hi", max_tokens=5), letters(5)


def read(data: bytes) -> Any:
    return parsed(pb.ChatRequest.FromString, data, CONTEXT_LENGTH)


def test_a_full_request_is_read() -> None:
    """It has fields of every kind, known and unknown, and as many messages as a context can hold."""
    request = pb.ChatRequest(prompt="x" * 300, stop=["a"] * 16, logprobs=True, max_tokens=2**31)
    request.sampling.temperature = 0.5
    request.history.extend([pb.Message(content="y" * 200)] * (CONTEXT_LENGTH - 3))
    unknown = bytes([100 << 3 & 0x7F | 0x80 | 1, 100 >> 4]) + struct.pack("<d", 1.0)
    assert read(request.SerializeToString() + unknown).history == request.history


@pytest.mark.parametrize("number", [CONTEXT_LENGTH - 2, 1_000_000])
def test_more_messages_than_the_context_holds_are_not_parsed(number: int) -> None:
    with pytest.raises(PromptTooLong, match=f"at least {CONTEXT_LENGTH} tokens"):
        read(b"\x12\x00" * number)


@pytest.mark.parametrize(
    "field", [b"\x0a\x00", b"\x2a\x00", b"\x30\x00", b"\xa1\x06" + bytes(8), b"\xa5\x06" + bytes(4), b"\x4b"]
)
def test_too_many_fields_are_not_parsed(field: bytes) -> None:
    """This counts fields of every kind except those of the history."""
    with pytest.raises(InvalidRequest, match="request: has over 1000 fields beside its history; send each once"):
        read(field * (MOST_OTHER_FIELDS + 1))


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05Hi", b"\x80", b"\x0a\x80", b"\x30\xff", b"\xff" * 2**20, b"\x0a" + b"\x80" * 2**20 + b"\1"],
)
def test_what_is_cut_short_does_not_parse(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="bytes that do not parse"):
        read(data)


async def test_a_message_that_does_not_come_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.server.message.MESSAGE_SECONDS", 0.1)
    async with fake_server() as server:
        method: Any = server.channel.stream_stream(f"/{SERVICE}/Chat", None, None)
        call = method()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no complete message arrived" in await call.details()
        assert await unary(server.stub, REQUEST) == TEXT


async def test_many_calls_broken_off_before_their_messages_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The caller's connection ends before any of its calls has sent its message; none is logged."""
    caplog.set_level(logging.INFO, "index_grpc.calls")
    async with fake_server() as server:
        await asyncio.to_thread(break_off, server.address, 2_000)
        await asyncio.gather(*(unary(server.stub, REQUEST) for _ in range(20)))
        await server.until_num_open(0)
    assert [record.getMessage() for record in caplog.records if "code=OK" not in record.getMessage()] == []


def break_off(address: str, num_calls: int) -> None:
    """Opens `num_calls` calls on one connection, and closes it when they have arrived."""
    host, _, port = address.rpartition(":")
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    asked = [(":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICE}/Chat"), (":authority", address)]
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        wire.sendall(connection.data_to_send())
        for number in range(num_calls):
            connection.send_headers(2 * number + 1, [*asked, ("te", "trailers"), ("content-type", "application/grpc")])
        connection.ping(b"arrived?")
        wire.sendall(connection.data_to_send())
        received = b""
        while b"arrived?" not in received:
            received += wire.recv(65_536)


async def test_bytes_that_do_not_parse_are_an_invalid_argument() -> None:
    async with fake_server() as server:
        found = await refusal(raw_call(server.channel, "Chat", b"\x0a\x05Hi"))
        assert found.message.startswith("request: 4 bytes that do not parse; send a message of")
