"""Connections over HTTP that say nothing, or too little, come to an end."""

import asyncio

import pytest

from index_grpc.server.app import App
from tests.http.asking import COMPLETIONS, fake_http
from tests.server.fake_runner import fake_server

HALF_A_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
HALF_A_BODY = HALF_A_HEAD + b"content-length: 100\r\n\r\n{"
WHOLE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


async def connected(app: App) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = app.ports[0].address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What still comes until the server ends the connection."""
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("said", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
async def test_a_head_that_does_not_come(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.patience.HEAD_SECONDS", 0.05)
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(said)
        assert await ended(reader, writer) == b""


async def test_a_second_head_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.patience.HEAD_SECONDS", 0.05)
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(WHOLE)
        assert await reader.readuntil(b"}")
        writer.write(HALF_A_HEAD)
        assert await ended(reader, writer) == b""


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.endpoint.BODY_SECONDS", 0.05)
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(HALF_A_BODY)
        assert b"400 Bad Request" in await reader.readline()
        writer.close()


async def test_a_slow_answer_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.patience.HEAD_SECONDS", 0.05)
    async with fake_http() as (server, http):
        server.runner.gate.clear()
        messages = [{"role": "user", "content": "Hi"}]
        asked = asyncio.create_task(http.post(COMPLETIONS, json={"messages": messages, "max_tokens": 5}))
        await server.has_open(1)
        await asyncio.sleep(0.2)
        server.runner.gate.set()
        assert (await asked).status_code == 200


async def test_more_connections_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.patience.most_connections", lambda: 8)
    async with fake_server(http_port=0) as server:
        first = [await connected(server.app) for _ in range(2)]
        reader, writer = await connected(server.app)
        writer.write(WHOLE)
        assert await ended(reader, writer) == b""
        reader, writer = first[0]
        writer.write(WHOLE)
        assert b"200 OK" in await reader.readline()
        for _, other in first:
            other.transport.abort()
