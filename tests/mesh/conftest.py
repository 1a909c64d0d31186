"""A fixture that runs either proxy, and two running replicas of the demo model."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.mesh.envoy import running_envoy
from tests.mesh.haproxy import program, running_haproxy
from tests.mesh.proxy import Changes, Proxy
from tests.mesh.replicas import Replica, started


class Run(Protocol):
    """Runs a proxy with the deployed configuration, with the given changes."""

    def __call__(
        self, folder: Path, replicas: Sequence[str], changes: Changes | None = None
    ) -> AbstractAsyncContextManager[Proxy]: ...


PROXIES: dict[str, Run] = {"envoy": running_envoy, "haproxy": running_haproxy}


@pytest.fixture(params=PROXIES)
def run_proxy(request: pytest.FixtureRequest) -> Run:
    """Runs each proxy in turn in front of two replicas."""
    if request.param == "haproxy" and program() is None:
        pytest.skip("no HAProxy: apt-get install haproxy")
    return PROXIES[request.param]


@pytest.fixture(scope="module")
async def replicas() -> AsyncIterator[list[Replica]]:
    """Two replicas of the demo model."""
    with ExitStack() as stack:
        yield await asyncio.to_thread(started, stack)
