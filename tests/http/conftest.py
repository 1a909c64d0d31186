"""One real server on the small random checkpoint, with both ports."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx2
import pytest
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.server.app import App
from tests.conftest import serving, settings
from tests.http.asking import client
from tests.server.asking import Stub


@pytest.fixture(scope="package")
async def both(checkpoint: Path) -> AsyncIterator[tuple[App, str]]:
    """The server and its gRPC address."""
    async with serving(settings(checkpoint, http_port=0)) as app_and_address:
        yield app_and_address


@pytest.fixture(scope="package")
async def http(both: tuple[App, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for its HTTP port."""
    async with client(both[0]) as http:
        yield http


@pytest.fixture(scope="package")
async def stub(both: tuple[App, str]) -> AsyncIterator[Stub]:
    """A stub for its gRPC port."""
    async with grpc.aio.insecure_channel(both[1]) as channel:
        yield ChatServiceStub(channel)
