"""Calls are balanced evenly, or by load, although all come over one connection."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from tests.mesh.asking import ask_often, calling
from tests.mesh.conftest import Run
from tests.mesh.envoy import BY_LOAD, LOAD_BALANCING, running_envoy
from tests.mesh.replicas import Replica
from tests.server.fake_runner import fake_server
from tests.server.holding import holding

pytestmark = pytest.mark.mesh

UNARY, STREAMS = 1000, 200


async def shares(replicas: list[Replica], name: str, count: int) -> list[float]:
    """The share of the calls that each replica has answered, once all are in their logs."""
    while sum(answered := [replica.answered(name) for replica in replicas]) < count:
        await asyncio.sleep(0.02)
    return [number / count for number in answered]


async def test_two_replicas_get_the_same_share(run_proxy: Run, replicas: list[Replica], tmp_path: Path) -> None:
    names = {
        f"{tmp_path.name}-unary": UNARY,
        f"{tmp_path.name}-stream": STREAMS,
    }  # the logs contain the calls of the other proxy too
    async with (
        run_proxy(tmp_path, [replica.address for replica in replicas]) as proxy,
        calling(proxy.address) as caller,
    ):
        texts = []
        for ask, (name, count) in zip((caller.unary, caller.stream), names.items(), strict=True):
            texts += await ask_often(ask, name, count)
    assert len(texts) == UNARY + STREAMS
    assert len(set(texts)) == 1
    for name, count in names.items():
        found = await shares(replicas, name, count)
        assert all(0.45 <= share <= 0.55 for share in found), (name, found)


AT_ONCE = {"blackout_period: 10s": "blackout_period: 0s", "weight_update_period: 1s": "weight_update_period: 0.1s"}
"""With the deployed periods it would take ten seconds until reports count."""

BUSY, IDLE = 10, 20
"""The `max_waiting` of each server, by which callers can tell which one answered."""


async def test_envoy_prefers_the_less_loaded_replica(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        busy, idle = [
            await stack.enter_async_context(fake_server(max_sequences=4, max_waiting=name)) for name in (BUSY, IDLE)
        ]
        await stack.enter_async_context(holding(busy, 3))
        changes = {LOAD_BALANCING: BY_LOAD} | AT_ONCE
        envoy = await stack.enter_async_context(running_envoy(tmp_path, [busy.address, idle.address], changes))
        caller = await stack.enter_async_context(calling(envoy.address))
        async with asyncio.timeout(30):
            answers: list[int] = []
            while answers.count(IDLE) <= 2 * answers.count(BUSY) or BUSY not in answers:
                answers = [(await caller.stub.GetModel(pb.GetModelRequest())).max_waiting for _ in range(60)]
