"""The steps that gRPC and HTTP share once a call is open: check readiness, validate the request, begin the answer."""

from dataclasses import dataclass

from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.chat import AnswerStream, Chat
from index_grpc.datatypes import ServedModel
from index_grpc.server import translate
from index_grpc.server.call import Call
from index_grpc.server.readiness import Readiness


@dataclass(frozen=True, slots=True)
class Backend:
    """The loaded model, and the chat that answers with it."""

    chat: Chat
    model: ServedModel


class Answering:
    """Answers with the backend, as long as the service is ready."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self.backend: Backend | None = None

    def ready(self, *, for_answer: bool = False) -> Backend:
        """Returns the backend. Raises the error that refuses a call if the service is not ready.

        `for_answer`: the call asks for an answer, and is refused also if the engine has no place for any request.
        """
        self._readiness.require()
        assert self.backend is not None
        if for_answer:
            self.backend.chat.engine.require_place(None)  # the request is not parsed yet, nor is its deadline known
        return self.backend

    async def answer(
        self, request: pb.ChatRequest, call: Call, backend: Backend, *, whole: bool = False
    ) -> AnswerStream:
        """Validates the request and begins to answer it. Records both on the call, for its observers.

        `whole`: the caller wants the answer in one piece.
        """
        call.model, call.is_streamed = backend.model.name, not whole
        call.request = translate.chat_request(request, call, backend.model)
        call.answer = await backend.chat.answer(call.request, call.note, whole=whole)
        return call.answer
