"""A full server refuses calls for answers before it looks at their messages, so that refusals cost nearly nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx2
import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from tests.http.asking import COMPLETIONS, client
from tests.server.asking import refusal
from tests.server.fake_runner import FakeServer, fake_server
from tests.server.holding import holding
from tests.server.raw import headers_and_trailers


@pytest.fixture
async def full() -> AsyncIterator[FakeServer]:
    """A server whose only place is taken."""
    async with fake_server(max_sequences=1, max_waiting=0, http_port=0) as server, holding(server, 1):
        yield server


@pytest.fixture
async def http(full: FakeServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for its HTTP port."""
    async with client(full.app) as http:
        yield http


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_a_message_is_not_even_parsed(full: FakeServer, method: str) -> None:
    path = f"/index.v1.ChatService/{method}"
    found = await asyncio.to_thread(headers_and_trailers, full.address, path, b"no message of chat.proto")
    assert found["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0])
    assert found["grpc-message"].startswith("all places are taken, 1 to run and 0 to wait")


@pytest.mark.parametrize("path", ["/", COMPLETIONS])
async def test_a_body_is_not_even_parsed(http: httpx2.AsyncClient, path: str) -> None:
    response = await http.post(path, content=b"no JSON")
    assert response.status_code == 503
    assert "all places are taken, 1 to run and 0 to wait" in response.text


async def test_calls_that_need_no_place_are_answered(full: FakeServer, http: httpx2.AsyncClient) -> None:
    assert (await full.stub.CountTokens(pb.CountTokensRequest(prompt="Hi"))).prompt_tokens > 0
    assert (await refusal(full.stub.CountTokens(pb.CountTokensRequest()))).reason == "INVALID_REQUEST"
    assert (await full.stub.GetModel(pb.GetModelRequest())).max_sequences == 1
    models: Any = (await http.get("/v1/models")).json()
    assert len(models["data"]) == 1
