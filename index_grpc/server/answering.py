"""What all ways in have in common once a call is open: is the service ready, is the request right, then an answer."""

from dataclasses import dataclass

from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.chat import Chat, Chunks
from index_grpc.contract import ServedModel
from index_grpc.server import translate
from index_grpc.server.calls import Call
from index_grpc.server.readiness import Readiness


@dataclass(frozen=True, slots=True)
class Backend:
    """What answers once the model is loaded."""

    chat: Chat
    model: ServedModel


class Answering:
    """Answers with the backend, as long as the service is ready."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self.backend: Backend | None = None

    def ready(self) -> Backend:
        """What answers. Raises what a call is to be refused with, if it is."""
        self._readiness.require()
        assert self.backend is not None
        return self.backend

    async def answer(self, request: pb.ChatRequest, call: Call, backend: Backend, *, whole: bool = False) -> Chunks:
        """Checks the request and begins to answer it, noting both for whoever observes the call.

        `whole` is for those who want the answer in one.
        """
        call.model = backend.model.name
        call.asked = translate.chat_request(request, call, backend.model)
        return await backend.chat.answer(call.asked, call.note, whole=whole)
