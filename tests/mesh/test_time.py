"""Answers may take long: the deployed proxies cut none off, and pass on a caller's deadline and its leaving.

Times are scaled down, those of Envoy's defaults too, so that the tests need not wait ten minutes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from tests.mesh.asking import Caller, calling
from tests.mesh.conftest import Run
from tests.mesh.envoy import running_envoy
from tests.server.asking import refusal, streamed
from tests.server.fake_runner import FakeServer, fake_server, letters

pytestmark = pytest.mark.mesh

NUM_TOKENS = 100
LONG = pb.ChatRequest(prompt="Hi", max_tokens=NUM_TOKENS)
"""A request that takes three seconds, 30 ms for each token."""
STEP_SECONDS = 0.03
SHORT_SILENCE = {
    "envoy": {"stream_idle_timeout: 600s": "stream_idle_timeout: 1s"},
    "haproxy": {"timeout client 600s": "timeout client 1s", "timeout server 600s": "timeout server 1s"},
}
"""A silence of a third of the answer's duration."""
ROUTE_TIMEOUT = {"timeout: 0s # the default": "timeout: 1s # the default"}
"""Stands for Envoy's default of 15 s; also a third of the answer's duration."""


@pytest.fixture
async def slow() -> AsyncIterator[list[FakeServer]]:
    """Two slow servers."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(fake_server()) for _ in range(2)]
        for server in servers:
            server.runner.step_seconds = STEP_SECONDS
        yield servers


def addresses(servers: list[FakeServer]) -> list[str]:
    return [server.address for server in servers]


async def test_an_answer_may_take_long(
    request: pytest.FixtureRequest, run_proxy: Run, slow: list[FakeServer], tmp_path: Path
) -> None:
    short = SHORT_SILENCE[request.node.callspec.params["run_proxy"]]
    async with run_proxy(tmp_path, addresses(slow), short) as proxy, calling(proxy.address) as caller:
        assert await streamed(caller.stub, LONG) == letters(NUM_TOKENS)


async def test_an_answer_would_be_cut_with_a_route_timeout(slow: list[FakeServer], tmp_path: Path) -> None:
    async with running_envoy(tmp_path, addresses(slow), ROUTE_TIMEOUT) as envoy, calling(envoy.address) as caller:
        cut = await refusal(caller.stub.ChatStream(LONG))
    assert cut.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL)


@pytest.fixture
async def caller(run_proxy: Run, slow: list[FakeServer], tmp_path: Path) -> AsyncIterator[Caller]:
    """A caller through each proxy, with the deployed configuration."""
    async with run_proxy(tmp_path, addresses(slow)) as proxy, calling(proxy.address) as caller:
        yield caller


async def test_the_callers_deadline_ends_an_answer_with_a_finish(caller: Caller) -> None:
    messages = [message async for message in caller.stub.ChatStream(LONG, timeout=1.5)]
    assert messages[-1].finish.reason == pb.FINISH_REASON_TIME_LIMIT


async def test_a_caller_that_leaves_stops_the_work(caller: Caller, slow: list[FakeServer]) -> None:
    call = caller.stub.ChatStream(pb.ChatRequest(prompt="Hi", max_tokens=4000))
    await anext(aiter(call))
    assert sum(num_open(server) for server in slow) == 1
    call.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(*(server.until_num_open(0) for server in slow))


def num_open(server: FakeServer) -> int:
    assert server.app.engine is not None
    return server.app.engine.num_open
