"""A server with slots for more calls than its memory holds: callers and balancers learn how busy it is."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.datatypes import Timing
from tests.server.asking import refusal, streamed, until
from tests.server.fake_runner import CONTEXT_LENGTH, FakeServer, fake_server
from tests.server.test_load_report import reported

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)
LONG = pb.ChatRequest(prompt="ab " * 1100, max_tokens=CONTEXT_LENGTH)


@pytest.fixture
async def short() -> AsyncIterator[FakeServer]:
    """A server on which one long call runs, which the device holds, and another waits for memory."""
    async with fake_server(max_sequences=8, max_waiting=8, num_contexts=1) as server:
        counted = await server.stub.CountTokens(pb.CountTokensRequest(prompt=LONG.prompt))
        assert counted.prompt_tokens > CONTEXT_LENGTH / 2
        server.runner.step_seconds = 0.005
        held = [asyncio.create_task(streamed(server.stub, LONG)) for _ in range(2)]
        await until(lambda: server.app.engine is not None and server.app.engine.num_places == 1)
        server.runner.gate.clear()
        yield server
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_a_call_that_would_wait_for_memory_past_its_time_is_refused_at_once(short: FakeServer) -> None:
    assert short.app.engine is not None
    for _ in range(100):  # recent requests took a minute each
        short.app.engine.pace.record(Timing(queue=0.0, time_to_first_token=1.0, total=60.0))
    for call in (short.stub.Chat, short.stub.ChatStream):
        found = await refusal(call(REQUEST, timeout=100))
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        assert found.message.startswith("the call would wait about 120.00 s, and its deadline leaves only ")
    hurried = pb.ChatRequest(prompt="Hi", time_limit=Duration(seconds=50))
    assert (await refusal(short.stub.Chat(hurried))).metadata["expected_wait_ms"] == "120000"


async def test_balancers_learn_that_calls_wait_for_memory(short: FakeServer) -> None:
    wrong = pb.ChatRequest(prompt="")
    assert (await reported(short, "Chat", wrong)).application_utilization == 3
