"""One caller's mistakes, and failures in answering it, do not affect the others."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
import torch
from google.rpc.error_details_pb2 import BadRequest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc import errors
from index_grpc.errors import CheckpointError, IndexGrpcError, StartupError, Unauthenticated, Unavailable
from index_grpc.server.status import CODES
from tests.server.asking import Stub, refusal, seeded, streamed
from tests.server.fake_runner import FAILS, SECRET, FakeServer, fake_server, letters
from tests.server.test_errors import CASES, SAMPLING_CASES, asking

MOST_HEALTH_SECONDS, NUM_ROUNDS = 0.1, 20


class HealthProbe:
    """Checks health without pause, in a separate thread and on a separate channel."""

    def __init__(self, address: str) -> None:
        self.slowest_seconds, self.began, self.over = 0.0, threading.Event(), threading.Event()
        self._address = address

    def work(self) -> None:
        """Checks until told to end."""
        with grpc.insecure_channel(self._address) as channel:
            check = HealthStub(channel).Check
            check(HealthCheckRequest(), timeout=10)  # the first check connects
            self.began.set()
            while not self.over.wait(0.002):
                started = time.perf_counter()
                check(HealthCheckRequest(), timeout=10)
                self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - started)


@asynccontextmanager
async def health_probed(address: str) -> AsyncIterator[HealthProbe]:
    """Checks health while the block runs."""
    probe = HealthProbe(address)
    work = asyncio.create_task(asyncio.to_thread(probe.work))
    try:
        assert await asyncio.to_thread(probe.began.wait, 10)
        yield probe
    finally:
        probe.over.set()
        await work
    assert probe.slowest_seconds > 0


async def health_stays_quick(address: str, disturb: Callable[[], Awaitable[None]]) -> None:
    """Checks that in at least one round all health answers are quick; in the others the machine may have been busy."""
    slowest_seconds = []
    for _ in range(NUM_ROUNDS):
        async with health_probed(address) as probe:
            await disturb()
        slowest_seconds.append(probe.slowest_seconds)
        if probe.slowest_seconds < MOST_HEALTH_SECONDS:
            return
    pytest.fail(f"slowest health answers of {NUM_ROUNDS} rounds: {slowest_seconds} s")


@asynccontextmanager
async def neighbour_undisturbed(stub: Stub) -> AsyncIterator[None]:
    """A long stream runs while the block does, and its text must be the same as alone."""
    request = seeded("Tell me a long story.", seed=3, max_tokens=300)
    alone = await streamed(stub, request)
    stream = aiter(stub.ChatStream(request))
    began = await anext(stream)
    rest = asyncio.create_task(joined(stream))
    try:
        yield
    finally:
        text = began.delta + await rest
    assert text == alone


async def joined(stream: AsyncIterator[pb.ChatStreamResponse]) -> str:
    return "".join([response.delta async for response in stream])


async def test_bad_requests_disturb_neither_a_neighbour_nor_health(stub: Stub, address: str) -> None:
    async def disturb() -> None:
        for fields, expected in [*CASES, *SAMPLING_CASES]:
            found = await asyncio.gather(*(refusal(stub.Chat(asking(**fields))) for _ in range(4)))
            assert all(one.violations == expected for one in found)

    async with neighbour_undisturbed(stub):
        await health_stays_quick(address, disturb)


@pytest.mark.parametrize("text", ["x", "你好", "Hello, world! "])
async def test_ten_megabytes_disturb_neither_a_neighbour_nor_health(stub: Stub, address: str, text: str) -> None:
    request = asking(prompt=text * (10_000_000 // len(text.encode())))

    async def disturb() -> None:
        assert (await refusal(stub.ChatStream(request))).reason == "PROMPT_TOO_LONG"

    async with neighbour_undisturbed(stub):
        await health_stays_quick(address, disturb)


def subclasses(family: type[IndexGrpcError]) -> set[type[IndexGrpcError]]:
    return set(family.__subclasses__()).union(*(subclasses(kind) for kind in family.__subclasses__()))


def test_every_error_of_a_call_has_its_status_and_its_reason() -> None:
    at_startup = {StartupError} | subclasses(StartupError)
    assert CheckpointError in at_startup
    ours = {kind for kind in subclasses(IndexGrpcError) if kind.__module__ == errors.__name__}
    of_a_call = ours - at_startup - {Unauthenticated, Unavailable}  # these two are raised as one of their kinds only
    assert of_a_call == set(CODES)
    assert len({kind.reason for kind in of_a_call}) == len(of_a_call)


async def answered(server: FakeServer, number: int) -> bool:
    request = pb.ChatRequest(prompt="Hi", max_tokens=20 + number)
    return await streamed(server.stub, request) == letters(20 + number)


FAILURES = [RuntimeError(SECRET), MemoryError(SECRET), torch.OutOfMemoryError(SECRET)]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_request_that_fails_is_internal_and_affects_no_other(failure: Exception) -> None:
    async with fake_server() as server:
        server.runner.failure = failure
        server.runner.gate.clear()
        neighbours = [asyncio.create_task(answered(server, number)) for number in range(8)]
        failing = [
            asyncio.create_task(refusal(ask(asking(max_tokens=50), metadata=(("x-request-id", f"{FAILS}{name}"),))))
            for name, ask in (("unary", server.stub.Chat), ("stream", server.stub.ChatStream))
        ]
        await server.until_num_open(10)
        server.runner.gate.set()
        for found, name in zip(await asyncio.gather(*failing), ("unary", "stream"), strict=True):
            assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "REQUEST_FAILED")
            assert found.request_id == f"{FAILS}{name}"
            assert found.message == f"computing the answer failed; request id {FAILS}{name}"
            assert BadRequest not in found.details
            assert not any(SECRET.encode() in str(value).encode() for value in found.trailers.values())
        assert all(await asyncio.gather(*neighbours))
        assert await answered(server, 1)  # the server still answers


async def test_a_bug_in_the_server_is_internal_and_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_server() as server:

        async def broken(messages: object) -> list[int]:
            raise KeyError(SECRET)

        assert server.app.answering.backend is not None
        monkeypatch.setattr(server.app.answering.backend.chat, "prompt_ids", broken)
        for call in (server.stub.Chat, server.stub.ChatStream):
            found = await refusal(call(asking(), metadata=(("x-request-id", "the-id"),)))
            assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "REQUEST_FAILED")
            assert found.message == "the server broke while answering; request id the-id"
            assert SECRET not in str(found)
