"""An engine that delivers no updates is noticed, reported, and given up after too long."""

import asyncio
from typing import cast

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.engine.engine import RECENT_STEPS, Engine
from index_grpc.errors import StartupError
from index_grpc.server.supervisor import RestartPolicy
from index_grpc.server.watchdog import CHECK_SECONDS, SHORTEST_STALL_SECONDS, Watchdog
from tests.server.asking import health_stub, read_refusal, refusal, streamed, until
from tests.server.fake_runner import FakeServer, fake_server, letters

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)


class ScriptedEngine:
    """An engine, as far as the watchdog reads it."""

    def __init__(self) -> None:
        self.num_open, self.num_updates, self.longest_step_seconds = 0, 0, 0.0

    def steps(self, seconds: float) -> None:
        self.num_updates += 1
        self.longest_step_seconds = max(self.longest_step_seconds, seconds)


def watchdog(engine: ScriptedEngine, timeout_seconds: float = 30.0) -> Watchdog:
    return Watchdog(cast("Engine", engine), timeout_seconds)


def check_for(watched: Watchdog, seconds: float) -> None:
    for _ in range(round(seconds / CHECK_SECONDS)):
        watched.check()


def verdict(watched: Watchdog) -> str:
    return "loss" if watched.sees_loss else "stall" if watched.sees_stall else "nothing"


def test_an_engine_with_nothing_to_do_may_be_silent() -> None:
    engine = ScriptedEngine()
    watched = watchdog(engine)
    check_for(watched, 3600)
    assert verdict(watched) == "nothing"


def test_silence_with_open_requests_is_a_stall_and_then_a_loss() -> None:
    engine = ScriptedEngine()
    watched = watchdog(engine)
    engine.num_open = 1
    check_for(watched, SHORTEST_STALL_SECONDS - CHECK_SECONDS)
    assert verdict(watched) == "nothing"
    watched.check()
    assert verdict(watched) == "stall"
    check_for(watched, 30)
    assert verdict(watched) == "loss"


def test_an_update_ends_a_stall() -> None:
    engine = ScriptedEngine()
    watched = watchdog(engine)
    engine.num_open = 1
    check_for(watched, 5)
    assert verdict(watched) == "stall"
    engine.steps(5.0)
    watched.check()
    assert verdict(watched) == "nothing"


def test_where_steps_are_long_silences_may_be_longer() -> None:
    engine = ScriptedEngine()
    watched = watchdog(engine)
    engine.num_open = 1
    engine.steps(1.0)
    check_for(watched, 9)
    assert verdict(watched) == "nothing"
    check_for(watched, 2)
    assert verdict(watched) == "stall"


async def test_the_longest_step_counts_though_others_followed_it() -> None:
    """There are many steps between two checks of the watchdog."""
    async with fake_server() as server:
        assert server.app.engine is not None
        server.runner.step_seconds = 0.2
        assert await streamed(server.stub, pb.ChatRequest(prompt="Hi", max_tokens=1)) == letters(1)
        server.runner.step_seconds = 0.0
        assert await streamed(server.stub, REQUEST) == letters(5)
        assert server.app.engine.longest_step_seconds >= 0.2
        assert await streamed(server.stub, pb.ChatRequest(prompt="Hi", max_tokens=RECENT_STEPS)) == letters(
            RECENT_STEPS
        )
        assert server.app.engine.longest_step_seconds < 0.2, "a pause is not remembered for ever"


def test_a_timeout_shorter_than_a_stall_counts() -> None:
    engine = ScriptedEngine()
    watched = watchdog(engine, timeout_seconds=0.5)
    engine.num_open = 1
    check_for(watched, 0.5)
    assert verdict(watched) == "loss"


async def test_health_is_not_serving_while_the_engine_is_stalled() -> None:
    async with fake_server() as server:
        watch = aiter(health_stub(server.channel).Watch(HealthCheckRequest()))
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        server.runner.gate.clear()
        held = asyncio.create_task(streamed(server.stub, REQUEST))
        assert (await anext(watch)).status == HealthCheckResponse.NOT_SERVING
        found = await refusal(server.stub.Chat(REQUEST))
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_STALLED")
        assert found.retry_seconds > 0
        server.runner.gate.set()
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        assert await held == letters(5)


async def test_an_engine_that_stalls_and_then_breaks_stays_lost() -> None:
    async with fake_server() as server:
        watch = aiter(health_stub(server.channel).Watch(HealthCheckRequest()))
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        server.runner.gate.clear()
        held = asyncio.create_task(refusal(server.stub.ChatStream(REQUEST)))
        assert (await anext(watch)).status == HealthCheckResponse.NOT_SERVING
        assert server.app.engine is not None
        server.app.engine.give_up()
        assert (await held).reason == "ENGINE_LOST"
        for _ in range(3):  # the next checks of the watchdog
            await asyncio.sleep(CHECK_SECONDS)
        assert (server.app.readiness.state, server.app.health.is_ready) == ("lost", False)
        server.runner.gate.set()


async def test_a_stall_may_end_during_the_drain() -> None:
    async with fake_server() as server:
        server.runner.gate.clear()
        held = asyncio.create_task(streamed(server.stub, REQUEST))
        await until(lambda: server.app.readiness.state == "stalled")
        drained = asyncio.create_task(server.app.drain(3600))
        await until(lambda: server.app.readiness.state == "draining")
        assert (await refusal(server.stub.Chat(REQUEST))).reason == "ENGINE_STALLED"
        server.runner.gate.set()
        assert await held == letters(5)
        async with asyncio.timeout(30):
            while (await refusal_or_none(server)) == "ENGINE_STALLED":
                await asyncio.sleep(CHECK_SECONDS)
        assert not server.app.health.is_ready
        drained.cancel()


async def refusal_or_none(server: FakeServer) -> str:
    try:
        await streamed(server.stub, REQUEST)
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason
    return ""


async def test_a_stuck_thread_fails_its_callers_and_ends_the_server() -> None:
    async with fake_server(step_timeout_seconds=0.5) as server:
        keeping = asyncio.create_task(server.app.supervisor.keep_loaded(lambda: server.loaded, RestartPolicy()))
        server.runner.gate.clear()
        found = await refusal(server.stub.ChatStream(REQUEST))
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")
        assert found.request_id
        with pytest.raises(StartupError, match="the engine broke"):
            await keeping
        await server.app.stop()
