"""Real servers on the small random checkpoint, for the load generator."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from index_grpc.bench.command import bench
from index_grpc.launch import load
from tests.background import BackgroundServer, background
from tests.conftest import settings


def serving(checkpoint: Path, **changes: object) -> AbstractContextManager[BackgroundServer]:
    """A separate server."""
    chosen = settings(checkpoint, **changes)
    return background(chosen, lambda: load(chosen))


@pytest.fixture(scope="package")
def server(checkpoint: Path) -> Iterator[BackgroundServer]:
    """A server with enough places for all calls."""
    with serving(checkpoint) as server:
        yield server


Run = Callable[..., tuple[Result, dict[str, Any]]]


def run_bench(address: str, *arguments: str) -> tuple[Result, dict[str, Any]]:
    """The command's result and its last line."""
    result = CliRunner(env={"INDEX_GRPC_ADDRESS": address}).invoke(bench, arguments, catch_exceptions=False)
    return result, json.loads(result.stdout.splitlines()[-1]) if result.stdout else {}


@pytest.fixture
def run(server: BackgroundServer) -> Run:
    """Runs the command against the shared server."""
    return lambda *arguments: run_bench(server.address, *arguments)
