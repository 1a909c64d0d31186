"""The engine on the event loop, when it ends: what callers get, and what becomes of the step that is computed."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from index_grpc.datatypes import SamplingParams, Token, TokenRequest
from index_grpc.engine.engine import Engine
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.sequence import Batch
from index_grpc.engine.token_stream import TokenStream
from index_grpc.engine.worker import ThreadWorker
from index_grpc.errors import Draining, EngineLost, IndexGrpcError
from tests.engine.driver import LIMITS

REQUEST = TokenRequest("x", [5, 6], SamplingParams(), max_tokens=5)


async def error_of(stream: TokenStream) -> IndexGrpcError:
    """The error with which a stream ends."""
    with pytest.raises(IndexGrpcError) as caught:
        async for _ in stream:
            pass
    return caught.value


def refusal(engine: Engine) -> IndexGrpcError:
    """The error with which the engine refuses a request."""
    with pytest.raises(IndexGrpcError) as caught:
        engine.submit(REQUEST)
    return caught.value


class HeldRunner:
    """A runner whose steps wait until the gate is open."""

    rows_independent, run_ahead = True, 0

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()

    def launch(self, batch: Batch) -> Computed:
        self.begun.set()
        assert self.gate.wait(30)
        return Computed([Token(9) for span in batch.spans if span.samples])


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine whose device holds every step until the test has ended."""
    runner = HeldRunner()
    engine = Engine(ThreadWorker(runner, LIMITS), LIMITS)
    await engine.start()
    yield engine
    runner.gate.set()
    await engine.stop(timeout_seconds=0.0)


async def test_each_caller_of_a_lost_engine_gets_an_error_of_its_own(engine: Engine) -> None:
    """A raised error keeps the frames that it passed, so a shared one would keep those of every request."""
    streams = [engine.submit(REQUEST) for _ in range(3)]
    engine.give_up()
    errors = [await error_of(stream) for stream in streams] + [refusal(engine) for _ in range(3)]
    assert {type(error) for error in errors} == {EngineLost}
    assert len({str(error) for error in errors}) == 1
    assert len(set(map(id, errors))) == 6


async def test_each_caller_of_a_stopped_engine_gets_an_error_of_its_own(engine: Engine) -> None:
    streams = [engine.submit(REQUEST) for _ in range(3)]
    await engine.stop(timeout_seconds=0.0)
    errors = [await error_of(stream) for stream in streams] + [refusal(engine) for _ in range(3)]
    assert {type(error) for error in errors} == {Draining}
    assert len(set(map(id, errors))) == 6


async def test_stopping_a_lost_engine_waits_for_nothing(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    engine.give_up()
    async with asyncio.timeout(30):
        await engine.stop(timeout_seconds=3600.0)
    assert caplog.text == ""


def test_a_step_that_outlasts_its_event_loop_is_dropped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, uncaught = HeldRunner(), list[threading.ExceptHookArgs]()
    worker = ThreadWorker(runner, LIMITS)

    async def stop_amid_a_step() -> None:
        engine = Engine(worker, LIMITS)
        await engine.start()
        engine.submit(REQUEST)
        assert await asyncio.to_thread(runner.begun.wait, 30)
        await engine.stop(timeout_seconds=0.0)

    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    asyncio.run(stop_amid_a_step())
    runner.gate.set()
    worker._thread.join(30)
    assert not worker._thread.is_alive()
    assert (caplog.messages, uncaught) == ([], [])
    assert not worker.broke
