from collections.abc import AsyncIterator, Iterator

import pytest
from index_grpc_client import AsyncClient, Client

from .either import EitherClient
from .fake_server import FakeServer, Script


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def script(server: FakeServer) -> Script:
    return server.script


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(server: FakeServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, timeout=60) as client:
        yield client


@pytest.fixture(params=["sync", "asyncio"])
async def either(request: pytest.FixtureRequest, server: FakeServer) -> AsyncIterator[EitherClient]:
    """The synchronous client, then the asyncio one."""
    if request.param == "sync":
        with Client(server.address, timeout=60) as client:
            yield client
    else:
        async with AsyncClient(server.address, timeout=60) as async_client:
            yield async_client
