"""Prompts that are still turned into tokens when the server drains."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.contract import Message
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
