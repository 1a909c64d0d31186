"""The answer of a stream, gathered as it comes."""

import grpc

from index_grpc_client.errors import IncompleteAnswerError
from index_grpc_client.request import Call
from index_grpc_client.result import ChatResult, Chunk
from index_grpc_client.v1 import chat_pb2


class Transcript:
    """Gathers the messages of one stream into the response that Chat would have given."""

    def __init__(self, call: Call[chat_pb2.ChatRequest]) -> None:
        self.request_id = call.request_id
        self._request = call.request
        self._deltas: list[str] = []
        self._response = chat_pb2.ChatResponse()
        self._finished = False

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
        if chunk.logprobs:
            self._response.logprobs.extend(message.logprobs)
        if chunk.start is not None:
            start = message.start
            self.request_id = start.id or self.request_id
            self._response.MergeFrom(
                chat_pb2.ChatResponse(id=start.id, model=start.model, seed=start.seed, create_time=start.create_time)
            )
        if chunk.finish is not None:
            self._response.finish.CopyFrom(message.finish)
            self._finished = True
        return chunk

    def end(self) -> None:
        """Takes the stream's end; raises IncompleteAnswerError if no finish had come."""
        if not self._finished:
            message = "the stream ended without a finish"
            raise IncompleteAnswerError(message, grpc.StatusCode.INTERNAL, request_id=self.request_id, text=self.text)

    def result(self) -> ChatResult:
        """Returns the whole answer; raises RuntimeError before its finish has come."""
        if not self._finished:
            raise RuntimeError("the answer is not finished: read the stream to its end first")
        turns = [
            chat_pb2.Message(role=chat_pb2.ROLE_USER, content=self._request.prompt),
            chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, content=self.text),
        ]
        response = chat_pb2.ChatResponse(response=self.text, history=[*self._request.history, *turns])
        response.MergeFrom(self._response)
        return ChatResult.from_wire(response)
