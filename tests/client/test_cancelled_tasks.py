"""A call that was closed is told from a task that was cancelled, whatever was cancelled in the task before."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from index_grpc_client import AsyncChatStream, AsyncClient, CallCancelledError

from .fake_server import Script


async def by_a_task_group() -> None:
    """A group of tasks fails while the task waits for it. CPython 3.11 forgets to take its cancellation back."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())


async def by_suppressing() -> None:
    task = asyncio.current_task()
    assert task
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert task.cancelling() == 1


WAYS = pytest.mark.parametrize("cancel_before", [by_a_task_group, by_suppressing])


async def in_a_loop(stream: AsyncChatStream) -> None:
    async for _ in stream:
        pass


@WAYS
@pytest.mark.parametrize("read", [anext, in_a_loop])
async def test_reading_a_closed_stream(
    async_client: AsyncClient,
    script: Script,
    cancel_before: Callable[[], Awaitable[None]],
    read: Callable[[AsyncChatStream], Awaitable[object]],
) -> None:
    script.hold_after = 1
    await cancel_before()
    stream = async_client.chat_stream("Hi")
    await anext(stream)
    await stream.close()
    with pytest.raises(CallCancelledError) as caught:
        await read(stream)
    assert caught.value.text == "Hello"


@WAYS
async def test_closing_within_the_loop(
    async_client: AsyncClient, script: Script, cancel_before: Callable[[], Awaitable[None]]
) -> None:
    script.hold_after = 1

    async def read() -> None:
        stream = async_client.chat_stream("Hi")
        async for _ in stream:
            await cancel_before()
            await stream.close()

    with pytest.raises(CallCancelledError):
        await read()


@WAYS
async def test_closing_the_client_under_a_call(
    async_client: AsyncClient, script: Script, cancel_before: Callable[[], Awaitable[None]]
) -> None:
    script.hold_after = 0

    async def ask() -> None:
        await cancel_before()
        await async_client.chat("Hi")

    asking = asyncio.ensure_future(ask())
    await asyncio.to_thread(script.holding.wait, 30)
    await async_client.close()
    with pytest.raises(CallCancelledError):
        await asking


@WAYS
async def test_a_cancellation_still_ends_the_task(
    async_client: AsyncClient, script: Script, cancel_before: Callable[[], Awaitable[None]]
) -> None:
    script.hold_after = 0

    async def ask() -> None:
        await cancel_before()
        await async_client.chat("Hi")

    asking = asyncio.ensure_future(ask())
    await asyncio.to_thread(script.holding.wait, 30)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_task_that_was_cancelled_while_it_ran_ends_at_the_call(async_client: AsyncClient) -> None:
    """So does Ctrl-C, whose handler may run anywhere."""

    async def ask() -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()
        await async_client.chat("Hi")

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(ask())
