"""Answers that are complete for the engine, but not for callers who do not read them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.datatypes import Candidate
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.sequence import Batch
from tests.http.asking import COMPLETIONS, Json, asking
from tests.server.fake_runner import FakeServer, fake_server
from tests.server.scraping import scraped
from tests.server.test_unfinished import CallLines

TOKENS = 4000
"""With all their alternatives they are several megabytes, more than the buffers of both ends hold."""
BODY = asking() | {"max_tokens": TOKENS, "logprobs": True, "top_logprobs": 20}

SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]
"""Channel options, so that gRPC itself reads little before its caller does."""


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> CallLines:
    return CallLines(caplog)


@asynccontextmanager
async def wordy_server(**changes: Any) -> AsyncIterator[FakeServer]:
    """A server whose tokens come with 20 alternatives each."""
    async with fake_server(http_port=0, metrics_port=0, **changes) as server:
        launch = server.runner.launch
        tops = tuple(Candidate(token_id, -1.0) for token_id in server.runner.letter_ids[:20])

        def wordy(batch: Batch) -> Computed:
            return Computed([token._replace(logprob=-1.0, top=tops) for token in launch(batch).tokens])

        server.runner.launch = wordy  # type: ignore[method-assign]
        yield server


async def asked(server: FakeServer, body: Json) -> socket.socket:
    """Sends a request through a socket with a small buffer, and waits until the engine has answered it."""
    host, port = server.app.ports[0].address.split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setblocking(False)
    loop, data = asyncio.get_running_loop(), json.dumps(body).encode()
    await loop.sock_connect(connection, (host, int(port)))
    head = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    await loop.sock_sendall(connection, head % (COMPLETIONS.encode(), len(data)) + data)
    await server.until_num_open(1)
    await server.until_num_open(0)
    return connection


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_leaves_a_finished_answer_unread_is_logged_as_cancelled(
    log: CallLines, *, stream: bool
) -> None:
    async with wordy_server() as server:
        connection = await asked(server, BODY | {"stream": stream})
        assert server.app.calls.num_open == 1
        connection.close()
        line, metrics = await log.line(), await scraped(server.app)
    assert line["code"] == "CANCELLED"
    assert metrics.value("gen_ai_server_request_duration_seconds_count", error_type="CANCELLED") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_reads_late_gets_the_whole_answer(log: CallLines, *, stream: bool) -> None:
    async with wordy_server() as server:
        connection = await asked(server, BODY | {"stream": stream})
        assert server.app.calls.num_open == 1
        reader, writer = await asyncio.open_connection(sock=connection)
        answer = await reader.read()
        writer.close()
        line = await log.line()
    assert line["code"] == "OK"
    assert answer.count(b'"top_logprobs"') == TOKENS
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")


async def test_callers_that_do_not_read_are_logged_as_cut_off_by_the_stop(
    log: CallLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_grpc.server.app.FLUSH_SECONDS", 0.1)
    monkeypatch.setattr("index_grpc.http.port.FLUSH_SECONDS", 0.1)
    request = pb.ChatRequest(prompt="Hi", max_tokens=TOKENS, logprobs=True, top_logprobs=20)
    async with wordy_server() as server, grpc.aio.insecure_channel(server.address, SMALL_WINDOW) as channel:
        connections = [await asked(server, BODY | {"stream": stream}) for stream in (True, False)]
        await anext(aiter(ChatServiceStub(channel).ChatStream(request)))
        await server.until_num_open(0)
        assert server.app.calls.num_open == 3
        await server.app.stop()
        lines = await log.lines(3)
        for connection in connections:
            connection.close()
    assert {(line["code"], line.get("reason")) for line in lines} == {("UNAVAILABLE", "DRAINING")}
