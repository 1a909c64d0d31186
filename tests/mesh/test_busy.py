"""A replica that refuses because it is busy is healthy: it still gets calls, and none fails while another is free."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from tests.mesh.asking import ask_often, calling
from tests.mesh.envoy import Envoy, running_envoy
from tests.server.asking import refusal
from tests.server.fake_runner import FakeServer, fake_server
from tests.server.holding import holding

pytestmark = pytest.mark.mesh

NUM_CALLS = 60
EJECTIONS = "outlier_detection.ejections_enforced_total"
BY_DEFAULT = {
    "enforcing_consecutive_5xx: 0": "enforcing_consecutive_5xx: 100",
    "split_external_local_origin_errors: true": "split_external_local_origin_errors: false",
}
"""Envoy's own defaults."""


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeServer]]:
    """A server with a single place, which is taken, and a server with many places."""
    async with AsyncExitStack() as stack:
        full = await stack.enter_async_context(fake_server(max_sequences=1, max_waiting=0))
        free = await stack.enter_async_context(fake_server(max_sequences=16, max_waiting=100))
        await stack.enter_async_context(holding(full, 1))
        yield [full, free]


async def asked(envoy: Envoy) -> None:
    """Makes calls, none of which may fail."""
    async with calling(envoy.address) as caller:
        assert len(set(await ask_often(caller.unary, "busy", NUM_CALLS, at_once=4))) == 1


async def test_a_busy_replica_is_not_ejected(servers: list[FakeServer], tmp_path: Path) -> None:
    addresses = [server.address for server in servers]
    async with running_envoy(tmp_path, addresses) as envoy:
        await asked(envoy)
        assert await envoy.count("upstream_rq_retry_success") >= NUM_CALLS // 4, "it did not get its turns"
        assert await envoy.count(EJECTIONS) == 0
        assert await envoy.healthy() == set(addresses)


async def test_a_busy_replica_would_be_ejected_with_envoys_defaults(servers: list[FakeServer], tmp_path: Path) -> None:
    async with running_envoy(tmp_path, [server.address for server in servers], BY_DEFAULT) as envoy:
        await asked(envoy)
        assert await envoy.count(EJECTIONS) == 1


async def test_when_all_are_busy_the_caller_is_told_when_to_retry(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(fake_server(max_sequences=1, max_waiting=0)) for _ in range(2)]
        for server in servers:
            await stack.enter_async_context(holding(server, 1))
        envoy = await stack.enter_async_context(running_envoy(tmp_path, [server.address for server in servers]))
        caller = await stack.enter_async_context(calling(envoy.address))
        refused = await refusal(caller.unary("late"))
    assert (refused.code, refused.reason, refused.request_id) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED", "late")
    assert refused.retry_seconds > 0
