"""Joins the messages of a stream to a whole answer."""

import grpc

from index_grpc_client.errors import IncompleteAnswerError, cancelled
from index_grpc_client.message import Message, assistant, user
from index_grpc_client.request import Call
from index_grpc_client.result import ChatResult, Chunk, Finish, Start, TokenLogprob
from index_grpc_client.v1 import chat_pb2


class Transcript:
    """Collects the messages of one stream, and returns the same result as Chat would."""

    def __init__(self, call: Call[chat_pb2.ChatRequest]) -> None:
        self.request_id = call.request_id
        self._request = call.request
        self._deltas: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._start: Start | None = None
        self._finish: Finish | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a message has arrived."""
        return bool(self._deltas)

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self._deltas)

    def add(self, message: chat_pb2.ChatStreamResponse) -> Chunk:
        """Adds the stream's next message. Returns it as a chunk."""
        chunk = Chunk.from_wire(message)
        self._deltas.append(chunk.delta)
        self._logprobs += chunk.logprobs
        if chunk.start is not None:
            self._start, self.request_id = chunk.start, chunk.start.id or self.request_id
        if chunk.finish is not None:
            self._finish = chunk.finish
        return chunk

    def end(self, *, was_cancelled: bool = False) -> None:
        """Checks, when the stream has ended, that the answer is complete.

        Raises:
            CallCancelledError: no `finish` has arrived, because the call was cancelled on this side.
            IncompleteAnswerError: no `finish` has arrived for another reason.
        """
        if self._finish is not None:
            return
        if was_cancelled:
            raise cancelled(self, self)
        message = "the stream ended without a finish"
        raise IncompleteAnswerError(message, grpc.StatusCode.INTERNAL, request_id=self.request_id, text=self.text)

    def result(self) -> ChatResult:
        """Returns the whole answer. Raises RuntimeError if its `finish` has not arrived yet."""
        if self._finish is None:
            raise RuntimeError("the answer is not finished: read the stream to its end first")
        text, finish = self.text, self._finish
        start = self._start or Start.from_wire(chat_pb2.Start())
        return ChatResult(
            text=text,
            finish_reason=finish.reason,
            stop_sequence=finish.stop_sequence,
            usage=finish.usage,
            timing=finish.timing,
            history=(*map(Message.from_wire, self._request.history), user(self._request.prompt), assistant(text)),
            id=start.id,
            model=start.model,
            seed=start.seed,
            create_time=start.create_time,
            fingerprint=start.fingerprint,
            logprobs=tuple(self._logprobs),
        )
