"""An observer that raises an exception affects nothing else."""

import asyncio

import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.datatypes import Timing
from index_grpc.engine.orders import StepReport
from index_grpc.server.call import Call
from index_grpc.server.observer import Observer
from tests.server.asking import refusal, streamed, unary
from tests.server.fake_runner import fake_server, letters

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)


class Breaking(Observer):
    """Raises an exception at every event."""

    def call_ended(self, call: Call) -> None:
        raise RuntimeError

    def stepped(self, step: StepReport) -> None:
        raise RuntimeError

    def answer_began(self, timing: Timing) -> None:
        raise RuntimeError

    def answer_cut_short(self, num_tokens_saved: int) -> None:
        raise RuntimeError

    def engine_lost(self) -> None:
        raise RuntimeError

    def stopped(self) -> None:
        raise RuntimeError


async def test_answers_are_complete_although_an_observer_fails(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_server(observers=[Breaking()]) as server:
        texts = await asyncio.gather(streamed(server.stub, REQUEST), unary(server.stub, REQUEST))
        assert set(texts) == {letters(5)}
        assert await unary(server.stub, pb.ChatRequest(prompt="Hi", max_tokens=4000, stop=["c"])) == "ab"
        await server.until_num_open(0)
    events = ("call_ended", "stepped", "answer_began", "answer_cut_short", "stopped")
    assert all(f"Breaking failed on {event}" in caplog.text for event in events)


async def test_a_lost_engine_is_noticed_although_an_observer_fails(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_server(observers=[Breaking()]) as server:
        assert await server.breaks_after(streamed(server.stub, REQUEST)) == letters(5)
        await asyncio.wait_for(server.app.supervisor.lost.wait(), 30)
        assert (await refusal(server.stub.Chat(REQUEST))).reason == "ENGINE_LOST"
    assert "Breaking failed on engine_lost" in caplog.text
