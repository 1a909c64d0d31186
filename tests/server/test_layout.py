"""Turning long conversations into tokens in a thread, beside the event loop, and a drain meanwhile."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.datatypes import Message
from tests.server.asking import unary, until
from tests.server.fake_runner import fake_server, letters


async def test_a_drain_waits_for_a_layout_that_takes_longer_than_callers_have_to_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Meanwhile the engine has nothing to do."""
    monkeypatch.setattr("index_grpc.server.app.FLUSH_SECONDS", 0.1)
    async with fake_server(grace_seconds=60) as server:
        assert server.app.answering.backend is not None
        chat, may_go_on, begun = server.app.answering.backend.chat, threading.Event(), threading.Event()
        lay_out = chat._lay_out

        def when_told(messages: Sequence[Message]) -> list[int]:
            begun.set()
            may_go_on.wait(30)
            return lay_out(messages)

        monkeypatch.setattr(chat, "_lay_out", when_told)
        asked = asyncio.create_task(unary(server.stub, pb.ChatRequest(prompt="Hi " * 1000, max_tokens=20)))
        await until(begun.is_set)
        drained = asyncio.create_task(server.app.drain(0.0))
        await asyncio.sleep(0.5)
        assert not drained.done()
        may_go_on.set()
        assert await asked == letters(20)
        await drained


EMPTY = pb.Message(role=pb.ROLE_USER)
SHORT = pb.Message(role=pb.ROLE_USER, content="Hello, how are you?")


@pytest.mark.parametrize(
    ("history", "beside"),
    [([], False), ([SHORT] * 5, False), ([EMPTY] * 3000, True), ([SHORT] * 100, True)],
    ids=["a prompt", "a few messages", "many empty messages", "many short messages"],
)
async def test_only_what_takes_long_to_lay_out_leaves_the_event_loop(
    history: list[pb.Message], beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message takes some time, even an empty one, and meanwhile the event loop would send nothing."""
    async with fake_server() as server:
        assert server.app.answering.backend is not None
        chat, threads = server.app.answering.backend.chat, list[threading.Thread]()
        lay_out = chat._lay_out

        def noting_the_thread(messages: Sequence[Message]) -> list[int]:
            threads.append(threading.current_thread())
            return lay_out(messages)

        monkeypatch.setattr(chat, "_lay_out", noting_the_thread)
        assert await unary(server.stub, pb.ChatRequest(prompt="Hi", history=history, max_tokens=5)) == letters(5)
        counted = await server.stub.CountTokens(pb.CountTokensRequest(prompt="Hi", history=history))
        assert counted.prompt_tokens > len(history)
        assert [thread is not threading.current_thread() for thread in threads] == [beside] * 2
