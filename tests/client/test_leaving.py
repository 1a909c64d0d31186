"""A caller that leaves an answer early, in any way, stops the server's work on it.

Each function returns the objects that its caller would still hold, so that it is not their deletion that stops the
work.
"""

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable

import pytest
from index_grpc_client import AsyncClient, AsyncConversation, CallCancelledError, Client, Conversation, DeadlineError

from .fake_server import Script


def by_break(client: Client) -> object:
    stream = client.chat_stream("Hi")
    for _ in stream:
        break
    assert stream.text == "Hello"
    return stream


def by_exception(client: Client) -> object:
    stream = client.chat_stream("Hi")
    with contextlib.suppress(ZeroDivisionError):
        for _ in stream:
            raise ZeroDivisionError
    return stream


def by_close(client: Client) -> object:
    stream = client.chat_stream("Hi")
    next(stream)
    stream.close()
    return stream


def by_with(client: Client) -> object:
    with client.chat_stream("Hi") as stream:
        next(stream)
    return stream


def by_deleting_the_stream(client: Client) -> object:
    next(client.chat_stream("Hi"))
    gc.collect()
    return None


def by_conversation(client: Client) -> object:
    conversation = Conversation(client)
    for _ in conversation.stream("Hi"):
        break
    assert conversation.history == ()
    return conversation


def by_closing_the_client(client: Client) -> object:
    stream = client.chat_stream("Hi")
    next(stream)
    client.close()
    with pytest.raises(CallCancelledError) as caught:
        next(stream)
    assert caught.value.text == "Hello"
    return stream


WAYS = [by_break, by_exception, by_close, by_with, by_deleting_the_stream, by_conversation, by_closing_the_client]


@pytest.mark.parametrize("leave", WAYS)
def test_leaving_cancels(leave: Callable[[Client], object], client: Client, script: Script) -> None:
    script.hold_after = 1
    kept = leave(client)
    assert script.left.wait(30), "the server was left at work"
    del kept


async def async_by_break(client: AsyncClient) -> object:
    stream = client.chat_stream("Hi")
    async for _ in stream:
        break
    assert stream.text == "Hello"
    return stream


async def async_by_exception(client: AsyncClient) -> object:
    stream = client.chat_stream("Hi")
    with contextlib.suppress(ZeroDivisionError):
        async for _ in stream:
            raise ZeroDivisionError
    return stream


async def async_by_close(client: AsyncClient) -> object:
    stream = client.chat_stream("Hi")
    await anext(stream)
    await stream.close()
    return stream


async def async_by_with(client: AsyncClient) -> object:
    async with client.chat_stream("Hi") as stream:
        await anext(stream)
    return stream


async def async_by_deleting_the_stream(client: AsyncClient) -> object:
    await anext(client.chat_stream("Hi"))
    gc.collect()
    return None


async def async_by_cancelling_the_reader(client: AsyncClient) -> object:
    stream = client.chat_stream("Hi")
    await anext(stream)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    return stream


async def async_by_conversation(client: AsyncClient) -> object:
    conversation = AsyncConversation(client)
    async for _ in conversation.stream("Hi"):
        break
    assert conversation.history == ()
    return conversation


async def async_by_closing_the_client(client: AsyncClient) -> object:
    stream = client.chat_stream("Hi")
    await anext(stream)
    await client.close()
    with pytest.raises(CallCancelledError) as caught:
        await anext(stream)
    assert caught.value.text == "Hello"
    return stream


async def async_by_closing_under_the_reader(client: AsyncClient) -> object:
    stream = client.chat_stream("Hi")
    await anext(stream)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await stream.close()
    with pytest.raises(CallCancelledError):
        await reader
    return stream


async def async_by_a_timeout(client: AsyncClient) -> object:
    """The call has ended then, and this must not look like a failure of the server."""
    stream = client.chat_stream("Hi")
    await anext(stream)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.05)
    for _ in range(2):
        with pytest.raises(CallCancelledError) as caught:
            await anext(stream)
        assert caught.value.text == "Hello"
    return stream


ASYNC_WAYS = [
    async_by_break,
    async_by_exception,
    async_by_close,
    async_by_with,
    async_by_deleting_the_stream,
    async_by_cancelling_the_reader,
    async_by_conversation,
    async_by_closing_the_client,
    async_by_closing_under_the_reader,
    async_by_a_timeout,
]


@pytest.mark.parametrize("leave", ASYNC_WAYS)
async def test_leaving_cancels_in_asyncio(
    leave: Callable[[AsyncClient], Awaitable[object]], async_client: AsyncClient, script: Script
) -> None:
    script.hold_after = 1
    kept = await leave(async_client)
    assert await asyncio.to_thread(script.left.wait, 30), "the server was left at work"
    del kept


async def test_cancelling_a_whole_answer(async_client: AsyncClient, script: Script) -> None:
    script.hold_after = 0
    waiting = asyncio.ensure_future(async_client.chat("Hi"))
    await asyncio.to_thread(script.holding.wait, 30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(script.left.wait, 30)


def test_the_timeout_ends_a_call(client: Client, script: Script) -> None:
    script.hold_after = 1
    stream = client.chat_stream("Hi", timeout=0.2)
    with pytest.raises(DeadlineError) as caught:
        list(stream)
    assert caught.value.text in ("", "Hello")
    assert script.left.wait(30)
