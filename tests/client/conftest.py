import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from index_grpc_client import AsyncClient, Client
from index_grpc_client.cli.commands import index_client

from .either import EitherClient
from .fake_server import FakeServer, Script


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


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


@pytest.fixture
def run(server: FakeServer) -> Callable[..., Result]:
    """Runs the command line against the server."""

    def run(*arguments: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        runner = CliRunner(env={"INDEX_GRPC_ADDRESS": server.address})
        return runner.invoke(index_client, arguments, input=stdin, env=env, catch_exceptions=False)

    return run
