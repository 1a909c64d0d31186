"""Lets one test use the synchronous and the asyncio client in the same way."""

import inspect
from collections.abc import AsyncIterable, Awaitable, Iterable
from typing import TypeVar

from index_grpc_client import AsyncClient, Chunk, Client

Value = TypeVar("Value")
EitherClient = Client | AsyncClient


async def settled(value: Value | Awaitable[Value]) -> Value:
    """Returns the result of a method of either client."""
    if inspect.isawaitable(value):
        awaited: Value = await value
        return awaited
    return value


async def drained(chunks: Iterable[Chunk] | AsyncIterable[Chunk], into: list[Chunk] | None = None) -> list[Chunk]:
    """Reads either client's stream to its end, into a list that is still there after an error."""
    into = [] if into is None else into
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            into.append(chunk)
    else:
        into.extend(chunks)
    return into
