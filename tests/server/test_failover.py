"""A caller of several servers is answered by one that can, whatever the others say when they refuse."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from index_grpc_client import AsyncClient
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.datatypes import Timing
from index_grpc.errors import Loading
from index_grpc.server.health import Health
from index_grpc.server.readiness import Readiness
from tests.server.asking import Refusal, Stub, refusal, retrying
from tests.server.fake_runner import FakeServer, fake_server, letters
from tests.server.holding import holding

TIMEOUT_SECONDS = 10.0
LONGER_SECONDS = 3 * TIMEOUT_SECONDS
NUM_CALLS = 6
PUSHBACK = "grpc-retry-pushback-ms"


def port(server: FakeServer) -> str:
    return server.address.rpartition(":")[2]


def drains(server: FakeServer) -> None:
    server.app.readiness.begin_drain()
    server.app.readiness.close()


def is_lost(server: FakeServer) -> None:
    server.app.readiness.lose(back_at=time.monotonic() + LONGER_SECONDS)


def stalls(server: FakeServer) -> None:
    server.app.readiness.stall(True)


@asynccontextmanager
async def client_of(*servers: FakeServer) -> AsyncIterator[AsyncClient]:
    """A client of several servers."""
    address = "ipv4:" + ",".join(f"127.0.0.1:{port(server)}" for server in servers)
    async with AsyncClient(address, timeout=TIMEOUT_SECONDS) as client:
        yield client


async def check_all_answered(*servers: FakeServer) -> None:
    async with client_of(*servers) as client:
        for _ in range(NUM_CALLS):
            assert (await client.chat("Hi", max_tokens=5)).text == letters(5)


async def test_one_server_of_three_is_enough() -> None:
    async with AsyncExitStack() as stack:
        *broken, good = [await stack.enter_async_context(fake_server()) for _ in range(3)]
        for server in broken:
            is_lost(server)
        await check_all_answered(*broken, good)


@pytest.mark.parametrize("fails", [drains, is_lost, stalls])
async def test_a_refused_call_is_answered_by_another_server(fails: Callable[[FakeServer], None]) -> None:
    """The refusing server names a delay, during which nobody should wait while another server is idle."""
    async with AsyncExitStack() as stack:
        broken, good = [await stack.enter_async_context(fake_server()) for _ in range(2)]
        fails(broken)
        await check_all_answered(broken, good)


async def test_a_call_is_answered_by_another_server_while_one_is_loading() -> None:
    async with fake_server(loaded=False) as loading, fake_server() as good:
        await check_all_answered(loading, good)


async def test_a_call_that_a_full_server_refuses_is_answered_by_another() -> None:
    async with fake_server(max_sequences=1, max_waiting=0) as full, fake_server() as idle, holding(full, 1):
        assert full.app.engine is not None
        for _ in range(100):
            full.app.engine.pace.record(Timing(queue=0.0, time_to_first_token=1.0, total=LONGER_SECONDS))
        await check_all_answered(full, idle)


async def test_grpc_is_told_the_delay_from_the_third_refusal_on() -> None:
    async with fake_server(loaded=False) as server:
        found = [await last_refusal(server, num_attempts) for num_attempts in (2, 3)]
    assert {one.reason for one in found} == {"LOADING"}
    assert PUSHBACK not in found[0].trailers
    assert int(found[1].trailers[PUSHBACK]) / 1000 == found[1].retry_seconds >= 3 * found[0].retry_seconds


async def last_refusal(server: FakeServer, num_attempts: int) -> Refusal:
    """Makes a call that gRPC tries so many times."""
    options = [("grpc.service_config", retrying(num_attempts))]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        stub: Stub = ChatServiceStub(channel)
        return await refusal(stub.GetModel(pb.GetModelRequest()))


async def test_the_longer_a_model_loads_the_later_callers_are_told_to_come_back() -> None:
    health = Health("a service")
    readiness = Readiness(health, started=time.monotonic() - 7)
    with pytest.raises(Loading) as refused:
        readiness.require()
    assert 7 <= (refused.value.retry_after_seconds or 0) < 10
