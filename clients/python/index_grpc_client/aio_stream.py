"""The stream of an asyncio client."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc.aio

from index_grpc_client.request import Call
from index_grpc_client.result import ChatResult, Chunk
from index_grpc_client.transcript import Transcript
from index_grpc_client.translation import AsyncTranslation
from index_grpc_client.v1 import chat_pb2


class AsyncChatStream:
    """A streamed answer. `async for` yields its chunks as they arrive; it can be used once.

    Leaving the loop early, by `break` or an exception, cancels the call. So do `close()`, the end of an `async with`
    block, dropping the stream, and cancelling the task that waits for a chunk, as `asyncio.timeout` does. Errors of the
    call are raised by the iteration; their `text` is the text that had arrived before.
    """

    def __init__(
        self,
        call: Call[chat_pb2.ChatRequest],
        method: "grpc.aio.UnaryStreamMultiCallable[chat_pb2.ChatRequest, chat_pb2.ChatStreamResponse]",
        channel: grpc.aio.Channel,
    ) -> None:
        self._transcript, self._channel = Transcript(call), channel
        self._rpc = method(call.request, timeout=call.timeout, metadata=call.metadata)
        self._messages = aiter(self._rpc)

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return self._transcript.text

    def result(self) -> ChatResult:
        """Returns the whole answer. Raises RuntimeError if the stream has not been read to its end."""
        return self._transcript.result()

    async def close(self) -> None:
        """Cancels the call, unless it has ended."""
        self._rpc.cancel()

    async def __anext__(self) -> Chunk:
        chunk = await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> Chunk | None:
        """Returns the next chunk, or None at the answer's end."""
        async with AsyncTranslation(self._channel, self._transcript, self._transcript):
            message = await anext(self._messages, None)
        if message is None:
            self._transcript.end(was_cancelled=self._rpc.cancelled())
            return None
        return self._transcript.add(message)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        # A generator, because Python closes it however the loop ends. The stream itself would not notice the end, and
        # grpc.aio would let the call run on.
        try:
            while (chunk := await self._next()) is not None:
                yield chunk
        finally:
            self._rpc.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if hasattr(self, "_rpc"):
            self._rpc.cancel()
