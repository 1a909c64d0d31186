"""The engine in a separate process: the answers are the same, and when it dies it is replaced at once."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.chat import Chat
from index_grpc.datatypes import SamplingParams, TokenRequest
from index_grpc.engine.orders import Stop, Submit
from index_grpc.engine.process import ProcessWorker, start_process
from index_grpc.errors import StartupError
from index_grpc.launch import load, wants_process
from index_grpc.server.app import App
from index_grpc.server.loaded import Loaded
from index_grpc.server.supervisor import RestartPolicy
from tests.conftest import settings
from tests.process import serving
from tests.server.asking import Refusal, Stub, health_stub, read_refusal, refusal, seeded, streamed, unary

QUICKLY = RestartPolicy(first_pause_seconds=0.0, longest_pause_seconds=0.0, most_failures=3)
NUM_STREAMS = 32
WAIT_SECONDS = 60


class Server:
    """A server whose engine is a separate process and is replaced when it is lost."""

    def __init__(self, app: App, address: str, channel: grpc.aio.Channel) -> None:
        self.app, self.address = app, address
        self.stub: Stub = ChatServiceStub(channel)
        self.health = health_stub(channel)

    @property
    def process(self) -> psutil.Process:
        """The engine's process."""
        assert self.app.engine is not None
        worker = self.app.engine._worker
        assert isinstance(worker, ProcessWorker)
        return psutil.Process(worker.process.pid)


@asynccontextmanager
async def kept_loaded(
    load: Callable[[], Loaded], policy: RestartPolicy = QUICKLY, **changes: object
) -> AsyncIterator[Server]:
    app = App(settings("any", **changes))
    address = await app.listen()
    await app.supervisor.load(load)
    keeping = asyncio.create_task(app.supervisor.keep_loaded(load, policy))
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Server(app, address, channel)
    finally:
        keeping.cancel()
        await app.stop()
        if app.engine is not None and isinstance(worker := app.engine._worker, ProcessWorker):
            await asyncio.to_thread(worker.process.wait, WAIT_SECONDS)


@pytest.fixture(scope="module")
async def server(checkpoint: Path) -> AsyncIterator[Server]:
    own = settings(checkpoint, engine_process=True, max_sequences=NUM_STREAMS)
    async with kept_loaded(lambda: load(own)) as server:
        yield server


async def test_answers_are_those_of_the_thread(server: Server, stub: Stub) -> None:
    requests = [seeded("你好", seed=number, max_tokens=30 + number) for number in range(6)]
    both = [await asyncio.gather(*(streamed(one, request) for request in requests)) for one in (server.stub, stub)]
    assert both[0] == both[1]
    assert both[0] == [await unary(server.stub, request) for request in requests]


async def test_leaving_frees_the_place(server: Server) -> None:
    assert server.app.engine is not None
    stream = server.stub.ChatStream(seeded("你好", seed=1, max_tokens=400))
    await stream.read()
    stream.cancel()
    async with asyncio.timeout(WAIT_SECONDS):
        await server.app.engine.until_idle()


async def long_answers(server: Server) -> list[int]:
    """Seeds of answers so long that most are still open once all have begun."""
    answers = await asyncio.gather(*(server.stub.Chat(seeded("你好", seed, 500)) for seed in range(2 * NUM_STREAMS)))
    lengths = [answer.finish.usage.completion_tokens for answer in answers]
    longest = sorted(range(len(lengths)), key=lengths.__getitem__)[-NUM_STREAMS:]
    assert lengths[longest[0]] > 100
    return longest


async def end_of(stream: AsyncIterator[pb.ChatStreamResponse]) -> Refusal | None:
    """The status that ends a stream; None if its answer was complete before the engine's process was killed."""
    finish = None
    try:
        async for response in stream:
            finish = response.finish if response.HasField("finish") else None
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    assert finish is not None
    return None


def begin(server: Server, number: int) -> AsyncIterator[pb.ChatStreamResponse]:
    request = seeded("你好", seed=number, max_tokens=500)
    return aiter(server.stub.ChatStream(request, metadata=(("x-request-id", f"stream-{number}"),)))


async def test_a_killed_engine_is_noticed_at_once_and_replaced(server: Server) -> None:
    """Every open stream ends with a status that says when to retry; health reports the loss and the recovery."""
    request = seeded("Tell me a story.", seed=4, max_tokens=60)
    alone = await streamed(server.stub, request)
    watch = aiter(server.health.Watch(HealthCheckRequest()))
    assert (await anext(watch)).status == HealthCheckResponse.SERVING
    streams = [begin(server, number) for number in await long_answers(server)]
    for stream in streams:
        await anext(stream)
    killed = server.process
    os.kill(killed.pid, signal.SIGKILL)
    async with asyncio.timeout(WAIT_SECONDS):
        ends = [found for found in await asyncio.gather(*map(end_of, streams)) if found is not None]
        assert {(found.code, found.reason) for found in ends} == {(grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")}
        assert len({found.request_id for found in ends}) == len(ends)
        assert min(found.retry_seconds for found in ends) > 0
        assert (await anext(watch)).status == HealthCheckResponse.NOT_SERVING
        with suppress(grpc.aio.AioRpcError):  # the engine may be back before this call
            await server.stub.Chat(request)
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
    assert server.process.pid != killed.pid
    assert await streamed(server.stub, request) == alone


async def test_while_the_engine_restarts_callers_are_told_when_to_retry(checkpoint: Path) -> None:
    away, may_return = threading.Event(), threading.Event()

    def loads() -> Loaded:
        if away.is_set():
            assert may_return.wait(WAIT_SECONDS)
        return load(settings(checkpoint, engine_process=True))

    async with kept_loaded(loads) as server:
        away.set()
        watch = aiter(server.health.Watch(HealthCheckRequest()))
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        server.process.kill()
        assert (await anext(watch)).status == HealthCheckResponse.NOT_SERVING
        found = await refusal(server.stub.Chat(seeded("你好", seed=1)))
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")
        assert found.retry_seconds > 0
        may_return.set()
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        assert await unary(server.stub, seeded("你好", seed=1))


async def test_a_process_that_hangs_is_replaced(checkpoint: Path) -> None:
    own = settings(checkpoint, engine_process=True)
    async with kept_loaded(lambda: load(own), step_timeout_seconds=0.5) as server:
        text = await unary(server.stub, seeded("你好", seed=1))
        watch = aiter(server.health.Watch(HealthCheckRequest()))
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        hangs = server.process
        hangs.suspend()
        found = await refusal(server.stub.Chat(seeded("你好", seed=1)))
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")
        assert (await anext(watch)).status == HealthCheckResponse.NOT_SERVING
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        assert await unary(server.stub, seeded("你好", seed=1)) == text
        assert not hangs.is_running()


async def test_an_engine_that_dies_again_and_again_is_given_up(checkpoint: Path) -> None:
    loads = 0

    def dies_when_loaded() -> Loaded:
        nonlocal loads
        loaded = load(settings(checkpoint, engine_process=True))
        assert isinstance(loaded.worker, ProcessWorker)
        if loads:
            loaded.worker.process.kill()
        loads += 1
        return loaded

    app = App(settings("any"))
    await app.listen()
    await app.supervisor.load(dies_when_loaded)
    assert app.engine is not None
    assert isinstance(app.engine._worker, ProcessWorker)
    app.engine._worker.process.kill()
    with pytest.raises(StartupError, match="lost 3 times in a row"):
        await app.supervisor.keep_loaded(dies_when_loaded, QUICKLY)
    assert loads == 3
    await app.stop()


def test_pauses_grow_to_a_limit() -> None:
    assert [RestartPolicy().pause_seconds(number) for number in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


def test_an_error_of_loading_is_passed_to_the_server(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="neither a directory nor a hub id"):
        start_process(settings(tmp_path / "nowhere"))


def test_a_process_that_cannot_begin(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setattr("index_grpc.engine.process.MODULE", "index_grpc.no_such_module")
    with pytest.raises(StartupError, match="ended while loading \\(exit code 1\\)"):
        start_process(settings(checkpoint))


async def test_an_engine_that_was_told_to_stop_is_not_lost(checkpoint: Path) -> None:
    worker, ready = start_process(settings(checkpoint))
    assert ready.model.name == checkpoint.name
    ended = asyncio.Event()
    await worker.start(lambda reports: None, ended.set)
    worker.post(Submit(1, TokenRequest("x", [5, 6], SamplingParams(), 5)))
    worker.post(Stop())
    async with asyncio.timeout(WAIT_SECONDS):
        await ended.wait()
    assert not worker.broke
    assert worker.process.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, False),
        ({"engine_process": True}, True),
        ({"device": "cuda:1"}, True),
        ({"device": "cuda", "engine_process": False}, False),
        ({"device": "auto"}, False),
    ],
    ids=str,
)
def test_the_engine_has_a_process_on_cuda_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object], wanted: bool
) -> None:
    monkeypatch.setattr("index_grpc.launch.NVIDIA_DRIVERS", (tmp_path / "none",))
    assert wants_process(settings("demo", **changes)) is wanted


@pytest.mark.parametrize(
    ("torch_version", "visible", "wanted"),
    [("2.13.0", None, True), ("2.13.0+cu128", "0", True), ("2.13.0+cpu", None, False), ("2.13.0", "", False)],
)
def test_auto_means_cuda_with_a_driver_and_a_cuda_build_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch_version: str, visible: str | None, wanted: bool
) -> None:
    monkeypatch.setattr("index_grpc.launch.NVIDIA_DRIVERS", (tmp_path / "none", tmp_path))
    monkeypatch.setattr("index_grpc.launch.version", lambda package: torch_version)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert wants_process(settings("demo", device="auto")) is wanted
    assert not wants_process(settings("demo", device="cpu"))


async def test_an_engine_lost_during_the_warm_up_does_not_serve(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(chat: Chat) -> None:
        worker = chat.engine._worker
        assert isinstance(worker, ProcessWorker)
        worker.process.kill()
        while not chat.engine.has_ended:
            await asyncio.sleep(0)

    monkeypatch.setattr("index_grpc.server.supervisor.warm_up", lose)
    app = App(settings("any"))
    await app.listen()
    with pytest.raises(StartupError, match="right after"):
        await app.supervisor.load(lambda: load(settings(checkpoint, engine_process=True)))
    assert app.supervisor.model is None
    await app.stop()


def test_code_in_the_working_directory_is_not_run(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index_grpc").mkdir()
    (tmp_path / "index_grpc" / "__init__.py").write_text("raise SystemExit('not the one that was installed')")
    monkeypatch.chdir(tmp_path)
    with serving("--model", str(checkpoint), "--device", "cpu", "--port", "0", "--engine-process") as process:
        assert process.wait_for("ready in|error:")[0] == "ready in"
