"""Keeps a server busy for as long as a test needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from index_grpc_client.v1 import chat_pb2 as pb

from tests.server.asking import streamed
from tests.server.fake_runner import FakeServer

ENDLESS = pb.ChatRequest(prompt="Hi", max_tokens=4000)


@asynccontextmanager
async def holding(server: FakeServer, number: int) -> AsyncIterator[None]:
    """Keeps `number` endless calls open while the block runs."""
    server.runner.step_seconds = 0.01
    held = [asyncio.create_task(streamed(server.stub, ENDLESS)) for _ in range(number)]
    try:
        await server.until_num_open(number)
        yield
    finally:
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
    await server.until_num_open(0)
