"""How the tests call through a proxy: with the plain stub, which does not retry."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from tests.server.asking import Stub

Ask = Callable[[str], Awaitable[str]]
"""Makes a call with this request id and returns the answer's text."""

WITHOUT_RETRIES = (("grpc.enable_retries", 0),)
REQUEST = pb.ChatRequest(prompt="你好", sampling=pb.SamplingParams(seed=5), max_tokens=20)


class Caller:
    """Makes unary calls and streams with a stub."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub

    async def unary(self, request_id: str) -> str:
        """See Ask."""
        return (await self.stub.Chat(REQUEST, metadata=(("x-request-id", request_id),))).response

    async def stream(self, request_id: str) -> str:
        """See Ask."""
        messages = self.stub.ChatStream(REQUEST, metadata=(("x-request-id", request_id),))
        return "".join([message.delta async for message in messages])


@asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    """A caller with a new connection."""
    async with grpc.aio.insecure_channel(address, WITHOUT_RETRIES) as channel:
        yield Caller(ChatServiceStub(channel))


async def ask_often(ask: Ask, name: str, count: int, at_once: int = 32) -> list[str]:
    """Makes `count` calls, `at_once` of them at a time, with ids that begin with the name; returns the texts."""
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> str:
        async with places:
            return await ask(f"{name}-{number}")

    return await asyncio.gather(*(one(number) for number in range(count)))
