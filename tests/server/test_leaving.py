"""Callers that leave at any moment: by cancelling, by deadline, by a lost connection. Nothing of them may be kept."""

import asyncio
import gc
import os
import random
from typing import Any

import grpc
import psutil
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.engine.worker import ThreadWorker
from index_grpc.server.app import App
from tests.forwarding import forwarded
from tests.server.asking import until
from tests.server.fake_runner import fake_server

NUM_CALLS = int(os.environ.get("NUM_LEAVING_CALLS", "100"))
MOST_GROWTH_BYTES = 48 * 2**20


def request(rng: random.Random) -> pb.ChatRequest:
    prompt = rng.choice(["你好", "Tell me a story. " * 8, "x"])
    return pb.ChatRequest(prompt=prompt, sampling=pb.SamplingParams(seed=rng.getrandbits(32)), max_tokens=400)


async def cancelled(stub: Any, rng: random.Random) -> None:
    """Cancels a unary call or a stream before or during the answer."""
    if rng.random() < 0.5:
        call = stub.Chat(request(rng))
        await asyncio.sleep(rng.random() * 0.2)
        call.cancel()
    else:
        stream = stub.ChatStream(request(rng))
        for _ in range(rng.randrange(4)):
            await stream.read()
        stream.cancel()


async def out_of_time(stub: Any, rng: random.Random) -> None:
    """Makes a call with so short a deadline that it may pass before any response."""
    try:
        await stub.Chat(request(rng), timeout=rng.random() * 0.2 + 0.001)
    except grpc.aio.AioRpcError as error:
        # UNAVAILABLE if the server is so busy that the call would wait longer.
        assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


async def cut_off(address: str, rng: random.Random) -> None:
    """Loses the connection during a stream."""
    async with forwarded(address) as connection, grpc.aio.insecure_channel(connection.address) as channel:
        messages = aiter(ChatServiceStub(channel).ChatStream(request(rng)))
        try:
            for _ in range(rng.randrange(3)):
                await anext(messages, None)
            connection.cut()
            async for _ in messages:
                pass
        except grpc.aio.AioRpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def leave(stub: Any, address: str, num_calls: int, seed: int) -> None:
    """Makes calls that leave in all ways, a few at a time, so that most of them run."""
    rng, places = random.Random(seed), asyncio.Semaphore(24)

    async def one(number: int) -> None:
        async with places:
            own = random.Random(rng.getrandbits(32))
            if number % 5 == 0:
                await cut_off(address, own)
            elif number % 5 == 1:
                await out_of_time(stub, own)
            else:
                await cancelled(stub, own)

    await asyncio.gather(*(one(number) for number in range(num_calls)))


async def nothing_open(app: App) -> None:
    """Waits until the engine holds no request, and checks it for leaks."""
    assert app.engine is not None
    async with asyncio.timeout(20):
        while app.engine.num_open:
            await asyncio.sleep(0.01)
    worker = app.engine._worker
    assert isinstance(worker, ThreadWorker)
    assert not worker._loop.sequences
    assert worker._inbox.empty()
    worker._loop.check_for_leaks()


async def test_a_caller_that_leaves_while_a_refusal_is_sent_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC then fails to send the status, which is not logged as an error."""

    async def fails(*_: object) -> None:
        failing.set()
        raise grpc.aio.InternalError("the batch could not be executed")

    failing = asyncio.Event()
    monkeypatch.setattr("index_grpc.server.interceptor.abort", fails)
    caplog.set_level("INFO")
    async with fake_server() as server:
        call = server.stub.Chat(pb.ChatRequest())
        await failing.wait()
        call.cancel()
        await until(lambda: "method=Chat code=" in caplog.text)
    assert not any(record.exc_info for record in caplog.records)


async def num_tasks_settled() -> int:
    """The number of tasks, after those that are ending have ended."""
    for _ in range(20):
        await asyncio.sleep(0)
    return len(asyncio.all_tasks())


async def test_callers_that_leave_leave_nothing_behind(app: App, address: str, stub: Any) -> None:
    expected = (await stub.Chat(pb.ChatRequest(prompt="你好", sampling=pb.SamplingParams(seed=1)))).response
    await leave(stub, address, NUM_CALLS // 4, seed=1)
    await nothing_open(app)
    gc.collect()
    num_tasks, memory = await num_tasks_settled(), psutil.Process().memory_info().rss
    await leave(stub, address, NUM_CALLS, seed=2)
    await nothing_open(app)
    gc.collect()
    await until(lambda: len(asyncio.all_tasks()) <= num_tasks)
    grown = psutil.Process().memory_info().rss - memory
    assert grown < MOST_GROWTH_BYTES
    assert (await stub.Chat(pb.ChatRequest(prompt="你好", sampling=pb.SamplingParams(seed=1)))).response == expected
