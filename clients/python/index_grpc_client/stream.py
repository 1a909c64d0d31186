"""The stream of a synchronous client."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import grpc

from index_grpc_client.request import Call
from index_grpc_client.result import ChatResult, Chunk
from index_grpc_client.transcript import Transcript
from index_grpc_client.translation import translated
from index_grpc_client.v1 import chat_pb2


class ChatStream:
    """A streamed answer. A `for` loop yields its chunks as they arrive; it can be used once.

    Leaving the loop early, by `break` or an exception, cancels the call. So do `close()`, the end of a `with` block and
    dropping the stream. Errors of the call are raised by the iteration; their `text` is the text that had arrived
    before.
    """

    def __init__(
        self,
        call: Call[chat_pb2.ChatRequest],
        method: "grpc.UnaryStreamMultiCallable[chat_pb2.ChatRequest, chat_pb2.ChatStreamResponse]",
        channel: grpc.Channel,
    ) -> None:
        self._transcript, self._channel = Transcript(call), channel
        self._rpc = method(call.request, timeout=call.timeout, metadata=call.metadata)
        self._cancel: Callable[[], object] = self._rpc.cancel
        self._messages = iter(self._rpc)

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return self._transcript.text

    def result(self) -> ChatResult:
        """Returns the whole answer. Raises RuntimeError if the stream has not been read to its end."""
        return self._transcript.result()

    def close(self) -> None:
        """Cancels the call, unless it has ended."""
        self._cancel()

    def __next__(self) -> Chunk:
        with translated(self._channel, self._transcript, self._transcript):
            message = next(self._messages, None)
        if message is None:
            self._transcript.end()
            raise StopIteration
        return self._transcript.add(message)

    def __iter__(self) -> Iterator[Chunk]:
        # A generator, because Python closes it however the loop ends. The stream itself would not notice the end.
        try:
            with translated(self._channel, self._transcript, self._transcript):
                for message in self._messages:
                    yield self._transcript.add(message)
            self._transcript.end()
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
