"""Time: a limit or the call's deadline ends an answer with a finish; a call that cannot begin in time is refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from index_grpc_client import AsyncClient
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.datatypes import Timing
from index_grpc.engine.pace import Pace
from tests.server.asking import refusal, unary
from tests.server.fake_runner import FakeServer, fake_server, letters

ENDLESS = 4000


@pytest.fixture
async def slow() -> AsyncIterator[FakeServer]:
    """A server whose longest answers take about 40 seconds."""
    async with fake_server(max_sequences=2, max_waiting=8) as server:
        server.runner.step_seconds = 0.01
        yield server


@pytest.mark.parametrize("limit", ["deadline", "time_limit", "both"])
@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_the_answer_so_far_goes_out_in_time(slow: FakeServer, method: str, limit: str) -> None:
    fields: dict[str, Any] = {"time_limit": Duration(nanos=500_000_000)} if limit != "deadline" else {}
    seconds = {"deadline": 1.0, "time_limit": None, "both": 30.0}[limit]
    text, finish = await answer(slow, method, pb.ChatRequest(prompt="Hi", max_tokens=ENDLESS, **fields), seconds)
    assert finish.reason == pb.FINISH_REASON_TIME_LIMIT
    assert 0 < finish.usage.completion_tokens < ENDLESS
    assert text == letters(finish.usage.completion_tokens)
    assert 0 < finish.timing.total.ToMilliseconds() < 1000


async def answer(
    server: FakeServer, method: str, request: pb.ChatRequest, seconds: float | None
) -> tuple[str, pb.Finish]:
    if method == "Chat":
        response = await server.stub.Chat(request, timeout=seconds)
        return response.response, response.finish
    responses = [response async for response in server.stub.ChatStream(request, timeout=seconds)]
    return "".join(response.delta for response in responses), responses[-1].finish


async def test_an_answer_that_ends_in_time_has_no_time_limit(slow: FakeServer) -> None:
    slow.runner.step_seconds = 0.0
    _, finish = await answer(slow, "Chat", pb.ChatRequest(prompt="Hi", max_tokens=30), 30.0)
    assert finish.reason == pb.FINISH_REASON_MAX_TOKENS


@pytest.mark.parametrize(("seconds", "most"), [(1.0, 0.9), (100.0, 99.8)])
async def test_the_engines_deadline_is_a_little_before_the_calls(slow: FakeServer, seconds: float, most: float) -> None:
    slow.runner.step_seconds = 0.0
    await slow.stub.Chat(pb.ChatRequest(prompt="Hi", max_tokens=2), timeout=seconds)
    request = slow.runner.last_request
    assert request is not None
    assert request.deadline is not None
    assert most / 2 < request.deadline.instant - request.arrival < most * 1.02  # the header rounds the timeout up


REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)


async def busy_for_minutes(server: FakeServer) -> list[asyncio.Task[str]]:
    """Makes five calls, which the device holds, so that another one would wait for about two minutes."""
    assert server.app.engine is not None
    server.runner.gate.clear()
    held = [asyncio.create_task(code(server.stub.Chat(REQUEST))) for _ in range(5)]
    await server.until_num_open(5)
    for _ in range(100):  # recent requests took a minute each
        server.app.engine.pace.record(Timing(queue=0.0, time_to_first_token=1.0, total=60.0))
    return held


async def test_a_call_that_would_wait_past_its_deadline_is_refused_at_once(slow: FakeServer) -> None:
    held = await busy_for_minutes(slow)
    for call in (slow.stub.Chat, slow.stub.ChatStream):
        found = await refusal(call(REQUEST, timeout=100))
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        assert found.message.startswith("the call would wait about 120.00 s, and its deadline leaves only ")
        assert found.message.endswith(" s; call another server, or allow more time")
        assert found.metadata["expected_wait_ms"] == "120000"
        assert 90_000 < int(found.metadata["time_left_ms"]) < 102_000  # the header rounds the timeout up
        assert found.retry_seconds == 0.1  # another server may be idle
        assert found.request_id
    hurried = pb.ChatRequest(prompt="Hi", time_limit=Duration(seconds=50))
    found = await refusal(slow.stub.Chat(hurried, timeout=100))
    assert found.message.startswith("the call would wait about 120.00 s, and its time_limit leaves only ")
    patient = asyncio.create_task(code(slow.stub.Chat(REQUEST, timeout=200)))
    await slow.until_num_open(6)
    slow.runner.gate.set()
    assert await asyncio.gather(*held, patient) == ["OK"] * 6


async def test_the_error_names_the_deadline_that_the_caller_set(slow: FakeServer) -> None:
    """The server means to answer a little earlier."""
    slow.runner.gate.clear()
    held = asyncio.create_task(code(slow.stub.Chat(REQUEST)))
    await slow.until_num_open(1)
    call = slow.stub.Chat(pb.ChatRequest(prompt="Hi", max_tokens=5), timeout=2.0)
    await slow.until_num_open(2)
    assert slow.app.engine is not None
    requests = [stream.request for stream in slow.app.engine._streams.values()]
    assert requests[1].deadline is not None
    assert requests[1].deadline.seconds == pytest.approx(2.0, abs=0.1)
    call.cancel()
    slow.runner.gate.set()
    assert await held == "OK"


async def test_a_call_that_would_wait_too_long_is_answered_by_an_idle_server(slow: FakeServer) -> None:
    held = await busy_for_minutes(slow)
    async with fake_server() as idle:
        ports = ",".join(f"127.0.0.1:{server.address.rpartition(':')[2]}" for server in (slow, idle))
        async with AsyncClient(f"ipv4:{ports}") as client:
            texts = [(await client.chat("Hi", max_tokens=5, timeout=20)).text for _ in range(6)]
    assert texts == [letters(5)] * 6
    slow.runner.gate.set()
    assert await asyncio.gather(*held) == ["OK"] * 5


@pytest.mark.parametrize("stop", [[], ["c"]])
async def test_answers_that_a_stop_string_ends_count_for_the_pace(slow: FakeServer, stop: list[str]) -> None:
    engine = slow.app.engine
    assert engine is not None
    engine.pace = Pace()
    await unary(slow.stub, pb.ChatRequest(prompt="Hi", max_tokens=5, stop=stop))
    await slow.until_num_open(0)
    assert engine.pace_seconds > 0


async def test_a_time_limit_that_passes_before_the_first_token_is_an_error(slow: FakeServer) -> None:
    slow.runner.gate.clear()
    found = await refusal(slow.stub.ChatStream(pb.ChatRequest(prompt="Hi", time_limit=Duration(nanos=1))))
    assert found.reason == "DEADLINE_TOO_SHORT"
    assert found.message == "the call's time_limit of 0.000000001 s passed before its first token; allow more time"
    late = asyncio.create_task(
        refusal(slow.stub.ChatStream(pb.ChatRequest(prompt="你好" * 400, time_limit=Duration(nanos=300_000_000))))
    )
    await slow.until_num_open(1)
    await asyncio.sleep(0.3)  # the step takes longer than the limit, and the prompt has more chunks
    slow.runner.gate.set()
    ended = await late
    assert (ended.code, ended.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT")
    assert ended.message == "the call's time_limit of 0.30 s passed before its first token; allow more time"


async def code(call: grpc.aio.UnaryUnaryCall[pb.ChatRequest, pb.ChatResponse]) -> str:
    return (await call.code()).name
