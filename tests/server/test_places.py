"""Places that callers have left, which the engine frees at the end of its step."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from tests.server.asking import Stub, refusal, streamed, unary, until
from tests.server.fake_runner import fake_server, letters

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=20)
TEXT = letters(20)


@pytest.mark.parametrize("ask", [streamed, unary])
async def test_whoever_got_a_whole_answer_may_ask_again_at_once(
    ask: Callable[[Stub, pb.ChatRequest], Coroutine[None, None, str]],
) -> None:
    """The engine learns only after its step that a stop string has ended an answer."""
    request = pb.ChatRequest(prompt="Hi", max_tokens=50, stop=["e"])
    async with fake_server(max_sequences=1, max_waiting=0) as server:
        server.runner.step_seconds = 0.02
        for _ in range(10):
            assert await ask(server.stub, request) == letters(4)


async def test_callers_who_leave_do_not_let_the_queue_grow_without_end() -> None:
    async with fake_server(max_sequences=1, max_waiting=1) as server:
        server.runner.gate.clear()
        for number in range(1, 5):
            call = server.stub.Chat(REQUEST)
            await server.until_num_open(number)
            call.cancel()
            await until(lambda: server.app.calls.num_open == 0)
        assert (await refusal(server.stub.Chat(REQUEST))).reason == "OVERLOADED"
        server.runner.gate.set()
        await server.until_num_open(0)
        assert await unary(server.stub, REQUEST) == TEXT


async def test_a_prompt_that_leaves_before_its_turn_no_longer_counts_as_waiting() -> None:
    async with fake_server(max_sequences=1, max_waiting=8) as server:
        engine = server.app.engine
        assert engine is not None
        server.runner.gate.clear()
        first = asyncio.create_task(unary(server.stub, REQUEST))
        await server.until_num_open(1)
        second = server.stub.Chat(REQUEST)
        await server.until_num_open(2)
        second.cancel()
        await until(lambda: server.app.calls.num_open == 1)
        server.runner.gate.set()
        assert await first == TEXT
        await server.until_num_open(0)
        assert engine.num_waiting_prompt_tokens == 0
