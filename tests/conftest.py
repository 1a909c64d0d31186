"""One real server on a small random checkpoint, shared by all tests that talk over a socket."""

import gc
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import torch
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.launch import extra_ports, load
from index_grpc.server.app import App
from index_grpc.settings import ServeSettings
from tests.checkpoints import make_checkpoint

MAX_SEQUENCES = 16
MAX_WAITING = 32


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Has PyTorch compute in one thread: two threads on two busy cores spend most time waiting for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Python collects no reference cycles during the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def default_signal_handlers() -> Iterator[None]:
    """Handles Ctrl-C and the end of a terminal by default, in this process and in those that it starts.

    Under nohup or in the background of a shell these signals are ignored, and child processes inherit that.
    """
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hang_up)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint: hidden 256, 4 layers, context 512, unequal head norms."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random")


def settings(checkpoint: Path | str, **changes: object) -> ServeSettings:
    """Settings for a test server: a free port on the loopback, the CPU."""
    values: dict[str, object] = {
        "model": str(checkpoint),
        "port": 0,
        "device": "cpu",
        "threads": 1,
        "max_sequences": MAX_SEQUENCES,
        "max_waiting": MAX_WAITING,
        "drain_delay_seconds": 0.0,
    }
    return ServeSettings.model_validate(values | changes)


@asynccontextmanager
async def serving(chosen: ServeSettings) -> AsyncIterator[tuple[App, str]]:
    """A loaded server and its address, stopped at the end."""
    app = App(chosen, ports=extra_ports(chosen))
    address = await app.listen()
    try:
        await app.supervisor.load(lambda: load(chosen))
        yield app, address
    finally:
        await app.stop()


@pytest.fixture(scope="session")
async def served(checkpoint: Path) -> AsyncIterator[tuple[App, str]]:
    """The shared server and its address."""
    async with serving(settings(checkpoint)) as app_and_address:
        yield app_and_address


@pytest.fixture(scope="session")
def app(served: tuple[App, str]) -> App:
    """The shared server."""
    return served[0]


@pytest.fixture(scope="session")
def address(served: tuple[App, str]) -> str:
    """The shared server's address, host:port."""
    return served[1]


@pytest.fixture(scope="session")
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the shared server, without the options of our client."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel: grpc.aio.Channel) -> "ChatServiceStub":
    """The plain stub on that channel."""
    return ChatServiceStub(channel)
