"""Metadata up to 16 KiB is always accepted, and larger metadata is always refused."""

import asyncio

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from tests.server.asking import Stub
from tests.server.fake_runner import fake_server

KIB = 1024
NUM_CALLS = 40
"""gRPC's own limits would refuse a part of so many calls at random."""


async def refusals(stub: Stub, num_bytes: int) -> list[grpc.StatusCode]:
    """The codes of the refused calls among NUM_CALLS with a header of that size."""
    token = (("x-token", "x" * num_bytes),)

    async def code() -> grpc.StatusCode:
        return await stub.GetModel(pb.GetModelRequest(), metadata=token).code()

    found = await asyncio.gather(*(code() for _ in range(NUM_CALLS)))
    return [code for code in found if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("kib", [1, 9, 15])
async def test_metadata_below_the_limit_is_always_accepted(kib: int) -> None:
    async with fake_server() as server:
        assert await refusals(server.stub, kib * KIB) == []


@pytest.mark.parametrize("kib", [17, 100, 10 * KIB])
async def test_metadata_beyond_the_limit_is_always_refused(kib: int) -> None:
    async with fake_server() as server:
        told = await refusals(server.stub, kib * KIB)
        assert len(told) == NUM_CALLS
        assert set(told) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert (await server.stub.GetModel(pb.GetModelRequest())).model == "fake"  # the connection is still good
