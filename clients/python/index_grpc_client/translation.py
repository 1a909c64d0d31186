"""Raises the failures of calls as exceptions of `errors`, for both clients.

gRPC tries a call to an unreachable server again until the call's deadline passes. Then it reports only that, and not
why it could not connect. So a call that reached its deadline is looked at once more here.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

import grpc
import grpc.aio

from index_grpc_client.errors import (
    Answer,
    DeadlineError,
    Identified,
    IndexGrpcError,
    UnavailableError,
    cancelled,
    translate,
)

NOT_RETRIED = "/index.v1.Unreachable/Why"
"""A method that no server has and that the service config does not mention.

While a channel cannot connect, a call of it fails at once and says why. It is sent to a server only if the channel
connects at that very moment, and is then refused.
"""
LONGEST_LOOK_S = 1.0
"""How many seconds longer than its timeout a call may take, to find out why there is no connection.

It takes milliseconds, unless the machine is busy or the channel connects at that very moment.
"""


@contextmanager
def translated(channel: grpc.Channel, call: Identified, answer: Answer | None = None) -> Iterator[None]:
    """Raises the errors of a call in the block as exceptions of `errors`, with the text that had arrived."""
    try:
        yield
    except IndexGrpcError:
        raise
    except grpc.RpcError as error:
        failure = translate(_without_frames(error), call.request_id, answer)
        try:
            if may_be_unreachable(failure, answer) and (cause := why_unreachable(channel)):
                raise unreachable(cause, call) from _without_frames(cause)
            raise failure from error
        finally:
            del failure  # it refers to this frame


class AsyncTranslation:
    """A block that raises the errors of an asyncio call as exceptions of `errors`, with the text that had arrived.

    It is a class, because each chunk of a stream enters such a block, and a generator takes several times as long.
    """

    __slots__ = ("_answer", "_call", "_channel", "_num_handled")

    def __init__(self, channel: grpc.aio.Channel, call: Identified, answer: Answer | None = None) -> None:
        self._channel, self._call, self._answer = channel, call, answer
        self._num_handled = 0

    async def __aenter__(self) -> None:
        if num_cancellations():
            self._num_handled = await num_handled_cancellations()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.RpcError) and not isinstance(error, IndexGrpcError):
            await self._raise_failure(error)
        # grpc.aio raises this also if the call was closed, while the task that waits for it was not cancelled.
        if isinstance(error, asyncio.CancelledError) and num_cancellations() <= self._num_handled:
            raise cancelled(self._call, self._answer) from error

    async def _raise_failure(self, error: grpc.RpcError) -> NoReturn:
        failure = translate(_without_frames(error), self._call.request_id, self._answer)
        try:
            if may_be_unreachable(failure, self._answer):
                cause = await async_why_unreachable(self._channel, self._num_handled)
                if cause is not None:
                    raise unreachable(cause, self._call) from _without_frames(cause)
            raise failure from error
        finally:
            del failure  # it refers to this frame


def _without_frames(error: grpc.RpcError) -> grpc.RpcError:
    """Returns gRPC's error without its traceback.

    A stream is its own error, so that the frames and the error refer to each other. With the frames, requests would
    stay in memory until Python collects such cycles.
    """
    return error.with_traceback(None)


def num_cancellations() -> int:
    """Returns how often the current task was cancelled, less those that were taken back."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


async def num_handled_cancellations() -> int:
    """Returns how many cancellations the current task has caught and gone on after, without taking them back.

    CPython 3.11 leaves one behind each failed TaskGroup. Raises asyncio.CancelledError if another one is still to come.
    """
    await asyncio.sleep(0)  # a task that was cancelled while it ran learns of it only where it waits
    return num_cancellations()


def may_be_unreachable(failure: IndexGrpcError, answer: Answer | None) -> bool:
    """Returns whether a call's deadline passed before anything came from the server."""
    return isinstance(failure, DeadlineError) and not failure.reason and not (answer and answer.has_begun)


def unreachable(cause: grpc.RpcError, call: Identified) -> UnavailableError:
    """Returns the error of a call whose deadline passed while there was no connection.

    Nobody knows whether there was one before, over which the server received the call, so the message says both.
    """
    message = f"the timeout passed, and the last attempt to connect failed: {cause.details()}"
    return UnavailableError(message, cause.code(), request_id=call.request_id)


def why_unreachable(channel: grpc.Channel) -> grpc.RpcError | None:
    """Returns why the last attempt to connect failed.

    Returns None if there is a connection, an attempt is made, or another thread has closed the channel meanwhile.
    """
    until = time.monotonic() + LONGEST_LOOK_S
    if connectivity(channel) is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
        try:
            channel.unary_unary(NOT_RETRIED, bytes, bytes)(b"", timeout=max(0.0, until - time.monotonic()))
        except grpc.RpcError as error:
            return _if_unavailable(error)
        except ValueError:  # the channel is closed
            return None
    return None


async def async_why_unreachable(channel: grpc.aio.Channel, num_handled: int) -> grpc.RpcError | None:
    """Like why_unreachable, for a channel of asyncio. Returns None also if the channel is closed meanwhile.

    `num_handled`: how many cancellations the task had when the call began; a further one is raised.
    """
    if channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
        try:
            await channel.unary_unary(NOT_RETRIED, bytes, bytes)(b"", timeout=LONGEST_LOOK_S)
        except grpc.RpcError as error:
            return _if_unavailable(error)
        except asyncio.CancelledError:
            if num_cancellations() > num_handled:
                raise
    return None


def _if_unavailable(error: grpc.RpcError) -> grpc.RpcError | None:
    return error if error.code() is grpc.StatusCode.UNAVAILABLE else None


def connectivity(channel: grpc.Channel) -> grpc.ChannelConnectivity | None:
    """Returns the state of the channel, or None if gRPC does not tell it in time. Makes no attempt to connect.

    Afterwards gRPC watches the channel for up to 0.2 s, and closing the channel waits for that.
    """
    states: list[grpc.ChannelConnectivity] = []
    told = threading.Event()

    def tell(state: grpc.ChannelConnectivity) -> None:
        states.append(state)
        told.set()

    channel.subscribe(tell)
    try:
        told.wait(LONGEST_LOOK_S)
    finally:  # also after Ctrl-C, else gRPC would watch the channel until it is closed
        channel.unsubscribe(tell)
    return states[-1] if states else None
