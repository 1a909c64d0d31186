"""The answer of a stream, gathered as it comes."""

import grpc

from index_grpc_client.errors import IncompleteAnswerError, cancelled
from index_grpc_client.message import Message, assistant, user
from index_grpc_client.request import Call
from index_grpc_client.result import ChatResult, Chunk, Finish, Start, TokenLogprob
from index_grpc_client.v1 import chat_pb2


class Transcript:
    """Gathers the messages of one stream into the result that Chat would have given."""

    def __init__(self, call: Call[chat_pb2.ChatRequest]) -> None:
        self.request_id = call.request_id
        self._request = call.request
        self._deltas: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._start: Start | None = None
        self._finish: Finish | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a message has come."""
        return bool(self._deltas)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._deltas)

    def add(self, message: chat_pb2.ChatStreamResponse) -> Chunk:
        """Takes the stream's next message."""
        chunk = Chunk.from_wire(message)
        self._deltas.append(chunk.delta)
        self._logprobs += chunk.logprobs
        if chunk.start is not None:
            self._start, self.request_id = chunk.start, chunk.start.id or self.request_id
        if chunk.finish is not None:
            self._finish = chunk.finish
        return chunk

    def end(self, *, was_cancelled: bool = False) -> None:
        """Takes the stream's end.

        Raises:
            CallCancelledError: no finish had come, since the call was cancelled here.
            IncompleteAnswerError: none had come for another reason.
        """
        if self._finish is not None:
            return
        if was_cancelled:
            raise cancelled(self, self)
        message = "the stream ended without a finish"
        raise IncompleteAnswerError(message, grpc.StatusCode.INTERNAL, request_id=self.request_id, text=self.text)

    def result(self) -> ChatResult:
        """Returns the whole answer; raises RuntimeError before its finish has come."""
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
            logprobs=tuple(self._logprobs),
        )
