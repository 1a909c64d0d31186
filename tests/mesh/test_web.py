"""Envoy answers clients that do not use gRPC: JSON, lines of JSON, server-sent events, gRPC-Web."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from tests.mesh.envoy import Envoy, running_envoy
from tests.mesh.web import JSON, SSE, answer, decoded, framed, frames
from tests.server.fake_runner import FakeServer, fake_server, letters
from tests.server.holding import holding

pytestmark = pytest.mark.mesh

REQUEST = {"prompt": "Hi", "maxTokens": 5, "sampling": {"temperature": 0}}
ENDLESS = {"prompt": "Hi", "max_tokens": 4000}
KINDS = {"application/json": JSON, "text/event-stream": SSE}
GRPC_WEB = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
ORIGIN = "https://app.example"


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeServer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(fake_server(max_sequences=1, max_waiting=0)) for _ in range(2)]


@pytest.fixture
async def envoy(servers: list[FakeServer], tmp_path: Path) -> AsyncIterator[Envoy]:
    async with running_envoy(tmp_path, [server.address for server in servers]) as envoy:
        yield envoy


async def test_json(envoy: Envoy) -> None:
    found = await answer(envoy.address, "Chat", REQUEST, JSON | {"x-request-id": "mine"})
    assert (found.status, found.headers["content-type"]) == (200, "application/json")
    said = await found.json()
    assert (said["id"], said["response"], said["finish"]["reason"]) == ("mine", letters(5), "FINISH_REASON_MAX_TOKENS")
    assert said["history"][-1] == {"role": "ROLE_ASSISTANT", "content": letters(5)}
    assert (await (await answer(envoy.address, "GetModel", {}, JSON)).json())["model"] == "fake"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream(envoy: Envoy, kind: str) -> None:
    found = await answer(envoy.address, "ChatStream", REQUEST, KINDS[kind])
    assert (found.status, found.headers["content-type"]) == (200, kind)
    messages = await found.messages()
    assert "".join(message.get("delta", "") for message in messages) == letters(5)
    assert [number for number, message in enumerate(messages) if "start" in message] == [0]
    assert [number for number, message in enumerate(messages) if "finish" in message] == [len(messages) - 1]


async def test_errors_are_json_with_their_details(envoy: Envoy) -> None:
    found = await answer(envoy.address, "ChatStream", {"prompt": "", "maxTokens": 0}, SSE)
    assert (found.status, found.headers["content-type"]) == (400, "application/json")
    details = {detail["@type"].rpartition(".")[2]: detail for detail in (await found.json())["details"]}
    assert [wrong["field"] for wrong in details["BadRequest"]["fieldViolations"]] == ["prompt", "max_tokens"]
    assert details["ErrorInfo"]["reason"] == "INVALID_REQUEST"
    assert details["RequestInfo"]["requestId"] == found.headers["x-request-id"]
    assert (await answer(envoy.address, "Nothing", {}, JSON)).status == 404
    assert (await answer(envoy.address, "Chat", b"no JSON", JSON)).status == 400


async def test_when_all_are_busy_the_json_says_when_to_retry(envoy: Envoy, servers: list[FakeServer]) -> None:
    async with holding(servers[0], 1), holding(servers[1], 1):
        found = await answer(envoy.address, "Chat", REQUEST, JSON)
    assert found.status == 503
    assert (await found.json())["details"][-1]["retryDelay"].endswith("s")


async def test_unknown_fields_are_ignored(envoy: Envoy) -> None:
    found = await answer(envoy.address, "Chat", REQUEST | {"maxTokns": 1}, JSON)
    assert (await found.json())["response"] == letters(5)


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text+proto"])
async def test_grpc_web(envoy: Envoy, kind: str) -> None:
    is_text = "text" in kind
    request = framed(pb.ChatRequest(prompt="Hi", max_tokens=5).SerializeToString())
    asked = GRPC_WEB | {"content-type": kind, "accept": kind}
    found = await answer(envoy.address, "ChatStream", b64encode(request) if is_text else request, asked)
    assert found.headers["content-type"] == kind
    body = await found.body()
    *messages, (flags, trailers) = frames(decoded(body) if is_text else body)
    assert "".join(pb.ChatStreamResponse.FromString(message).delta for _, message in messages) == letters(5)
    assert flags == 0x80
    assert b"grpc-status:0\r\n" in trailers


async def test_browsers_may_call_from_the_allowed_origin_only(envoy: Envoy) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-grpc-web"}
    found = await answer(envoy.address, "Chat", b"", asked | {"origin": ORIGIN}, "OPTIONS")
    assert found.headers["access-control-allow-origin"] == ORIGIN
    assert "x-grpc-web" in found.headers["access-control-allow-headers"]
    request = framed(pb.ChatRequest(prompt="Hi", max_tokens=5).SerializeToString())
    found = await answer(envoy.address, "Chat", request, GRPC_WEB | {"origin": ORIGIN})
    assert "grpc-status" in found.headers["access-control-expose-headers"]
    found = await answer(envoy.address, "Chat", request, GRPC_WEB | {"origin": "https://other.example"})
    assert "access-control-allow-origin" not in found.headers


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_fails_half_way_looks_complete_but_for_its_finish(
    envoy: Envoy, servers: list[FakeServer], kind: str
) -> None:
    for server in servers:
        server.runner.step_seconds = 0.02
    found = await answer(envoy.address, "ChatStream", ENDLESS, KINDS[kind])
    assert '"delta":"a"' in await found.line()  # long before the end of the answer
    await asyncio.gather(*(server.app.stop() for server in servers))
    rest = await found.messages()
    assert (found.status, "finish" in str(rest)) == (200, False)
