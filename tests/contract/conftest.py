"""One running server on the demo model, and the programs of all languages, built once."""

import signal
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from index_grpc_client import Client

from tests.contract.languages import BY_FOLDER, Language
from tests.process import Process, no_traceback, serving

Built = Callable[[str], Language]


@pytest.fixture(scope="package")
def server() -> Iterator[Process]:
    """`index-grpc serve`. At the end it does not wait for answers that the programs have left."""
    with serving("--port", "0", "--device", "cpu", "--drain-delay-seconds", "0") as process:
        process.address()
        yield process
        process.send(signal.SIGTERM)
        assert process.exit_code() == 0
        assert not any("completing" in line for line in process.lines)
        assert no_traceback(process.lines)


@pytest.fixture(scope="package")
def address(server: Process) -> str:
    """The server's address, host:port."""
    return server.address()


@pytest.fixture(scope="package")
def client(address: str) -> Iterator[Client]:
    """Our client, with whose answers those of the other languages are compared."""
    with Client(address) as client:
        yield client


@pytest.fixture(scope="package")
def built() -> Built:
    """Builds a language's programs by its folder's name; skips if something is not installed."""
    outcome = cache(_build)

    def build(folder: str) -> Language:
        language, reason = BY_FOLDER[folder], outcome(folder)
        if reason:
            pytest.skip(reason)
        return language

    return build


def _build(folder: str) -> str:
    """Builds the programs, or says what is missing."""
    missing = BY_FOLDER[folder].missing()
    if missing:
        return f"not installed, or too old: apt-get install {' '.join(missing)}"
    BY_FOLDER[folder].build()
    return ""
