"""HTTP connections that send nothing, or not enough, are closed."""

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from index_grpc.access.keys import fingerprint
from index_grpc.http.port import HttpPort
from index_grpc.server.app import App
from tests.certificates import Pair, authority, issued
from tests.http.asking import COMPLETIONS, fake_http
from tests.http.test_access import TEXT, completed, trusting
from tests.server.asking import until
from tests.server.fake_runner import fake_server

HALF_A_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
HALF_A_BODY = HALF_A_HEAD + b"content-length: 100\r\n\r\n{"
WHOLE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


async def connected(app: App) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = app.ports[0].address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The bytes that still come until the server ends the connection."""
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("said", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
async def test_a_connection_without_complete_headers_is_closed(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 0.05)
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(said)
        assert await ended(reader, writer) == b""


@pytest.mark.parametrize(("num_bytes", "status"), [(15_000, b"200"), (33_000, b"431"), (100_000, b"431")])
@pytest.mark.parametrize("first", [0, 5_000], ids=["at once", "in two pieces"])
async def test_the_size_of_a_head_is_limited_however_it_arrives(num_bytes: int, status: bytes, first: int) -> None:
    head = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: " + b"x" * num_bytes + b"\r\n\r\n"
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(head[:first])
        await asyncio.sleep(0.05 if first else 0)
        writer.write(head[first:])
        assert (await reader.readline()).split()[1] == status
        writer.transport.abort()


async def test_a_connection_without_a_second_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 0.05)
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(WHOLE)
        assert await reader.readuntil(b"}")
        writer.write(HALF_A_HEAD)
        assert await ended(reader, writer) == b""


async def test_a_head_that_came_in_pieces_in_time_ends_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 1.0)
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        for piece in (WHOLE[:5], WHOLE[5:10], WHOLE[10:]):
            writer.write(piece)
            await asyncio.sleep(0.05)
        assert b"200 OK" in await reader.readline()
        await reader.readuntil(b"}")
        await asyncio.sleep(1.2)
        writer.write(WHOLE)
        assert b"200 OK" in await reader.readline()
        writer.transport.abort()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file with one key."""
    path = tmp_path / "keys.toml"
    path.write_text(f"[keys.alice]\nhash = '{fingerprint('alice')}'\n")
    return path


@asynccontextmanager
async def refused_by_head(
    num_bytes: int, keys: Path
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a call without a valid key was refused before any of its body was sent."""
    async with fake_server(http_port=0, api_keys_file=keys) as server:
        reader, writer = await connected(server.app)
        writer.write(HALF_A_HEAD + b"content-length: %d\r\n\r\n" % num_bytes)
        assert b"401 Unauthorized" in await reader.readline()
        await reader.readuntil(b"}")
        yield reader, writer


async def test_a_connection_is_kept_if_the_body_comes_after_the_answer(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many clients send the body after the head."""
    async with refused_by_head(2, keys) as (reader, writer):
        monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 0.05)
        writer.write(b"{}")
        await asyncio.sleep(0.2)
        writer.write(WHOLE)
        assert b"200 OK" in await reader.readline()
        await reader.readuntil(b"}")
        writer.write(HALF_A_HEAD)
        assert await ended(reader, writer) == b""


async def test_a_connection_whose_body_does_not_end_after_the_answer_is_closed(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 0.5)
    async with refused_by_head(3, keys) as (reader, writer):
        writer.write(b"{}")
        assert await ended(reader, writer) == b""


async def test_a_connection_whose_body_does_not_come_after_the_answer_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 0.5)
    async with fake_server(http_port=0, max_message_mib=1) as server:
        reader, writer = await connected(server.app)
        writer.write(HALF_A_HEAD + b"content-length: 2000000\r\n\r\n")
        assert b"413 " in await reader.readline()
        assert (await ended(reader, writer)).endswith(b"}")


async def test_a_connection_that_is_reset_is_freed() -> None:
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(WHOLE)
        assert await reader.readuntil(b"}")
        port = server.app.ports[0]
        assert isinstance(port, HttpPort)
        connection = weakref.ref(next(iter(port._server.server_state.connections)))

        def is_freed() -> bool:
            gc.collect()
            return connection() is None

        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(is_freed)


async def test_a_request_without_its_whole_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.endpoint.BODY_SECONDS", 0.05)
    monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 0.5)
    async with fake_server(http_port=0) as server:
        reader, writer = await connected(server.app)
        writer.write(HALF_A_BODY)
        assert b"400 Bad Request" in await reader.readline()
        assert (await ended(reader, writer)).endswith(b"}")


async def test_a_slow_answer_does_not_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.timeouts.HEAD_SECONDS", 0.05)
    async with fake_http() as (server, http):
        server.runner.gate.clear()
        messages = [{"role": "user", "content": "Hi"}]
        asked = asyncio.create_task(http.post(COMPLETIONS, json={"messages": messages, "max_tokens": 5}))
        await server.until_num_open(1)
        await asyncio.sleep(0.2)
        server.runner.gate.set()
        assert (await asked).status_code == 200


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return issued(authority(tmp_path / "ca.pem"), tmp_path, "server", "127.0.0.1")


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "a little"])
async def test_a_connection_without_a_handshake_is_closed(
    said: bytes, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_grpc.http.port.HANDSHAKE_SECONDS", 0.05)
    async with fake_server(http_port=0, tls_cert=pair.cert, tls_key=pair.key) as server:
        reader, writer = await connected(server.app)
        writer.write(said)
        assert await ended(reader, writer) == b""


def test_connections_count_during_their_handshakes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on uvloop, as the server does: asyncio's own loop closes refused connections only at garbage collection."""
    monkeypatch.setattr("index_grpc.http.timeouts.most_connections", lambda: 8)
    for module in ("handshakes", "port"):  # so that only a refusal ends a connection
        monkeypatch.setattr(f"index_grpc.http.{module}.HANDSHAKE_SECONDS", 60)
    uvloop.run(check_connections_during_handshakes(pair))


async def check_connections_during_handshakes(pair: Pair) -> None:
    async with fake_server(http_port=0, tls_cert=pair.cert, tls_key=pair.key) as server:
        first = [await connected(server.app) for _ in range(2)]
        assert await ended(*await connected(server.app)) == b""
        for _, other in first:
            other.transport.abort()
        for _ in range(3):  # their places are free again at once
            reader, writer = await connected(server.app)
            writer.write(WHOLE)
            await ended(reader, writer)
        port = server.app.ports[0]
        assert isinstance(port, HttpPort)
        handshakes = port._server.config.handshakes
        assert handshakes is not None
        await until(lambda: port._server.may_begin(len(handshakes._begun)))
        for _ in range(3):  # each no longer counts when its handshake is done
            assert await completed(server.app, trusting(pair.cert.parent)) == TEXT


async def test_connections_beyond_the_limit_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.http.timeouts.most_connections", lambda: 8)
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
