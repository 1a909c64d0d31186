"""The four calls: translate, have it answered, translate back."""

from dataclasses import dataclass

from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceServicer

from index_grpc.chat import Chat, Chunks
from index_grpc.contract import ServedModel
from index_grpc.server import translate
from index_grpc.server.calls import Call, current_call
from index_grpc.server.readiness import Readiness
from index_grpc.server.status import Context

SERVICE: str = pb.DESCRIPTOR.services_by_name["ChatService"].full_name


@dataclass(frozen=True, slots=True)
class Backend:
    """What answers once the model is loaded."""

    chat: Chat
    model: ServedModel


class ChatServicer(ChatServiceServicer):
    """Answers with the backend, as long as the service is ready."""

    def __init__(self, readiness: Readiness) -> None:
        self.readiness = readiness
        self.backend: Backend | None = None

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        """The whole answer in one message."""
        call, backend = current_call(), self.ready()
        with await self.answer(request, call, backend, whole=True) as chunks:
            all_chunks = [chunk async for chunk in chunks]
        assert call.asked is not None
        return translate.chat_response(all_chunks, call.asked, call, backend.model)

    async def ChatStream(  # type: ignore[override] # the stubs do not say that it may write
        self,
        request: pb.ChatRequest,
        context: Context,
    ) -> None:
        """Sends the answer as it is generated. gRPC sends the headers with the first message."""
        call, backend = current_call(), self.ready()
        with await self.answer(request, call, backend) as chunks:
            async for chunk in chunks:
                await context.write(translate.chat_stream_response(chunk, call, backend.model))

    async def CountTokens(
        self,
        request: pb.CountTokensRequest,
        context: Context,
    ) -> pb.CountTokensResponse:
        """Tokens of a prompt."""
        backend = self.ready()
        ids = await backend.chat.prompt_ids(translate.messages_to_count(request, backend.model))
        return translate.count_response(len(ids), backend.model)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """The served model."""
        backend = self.ready()
        return translate.model_response(backend.model, backend.chat.engine.limits)

    async def answer(self, request: pb.ChatRequest, call: Call, backend: Backend, *, whole: bool = False) -> Chunks:
        """Checks the request and begins to answer it, noting both for whoever observes the call. For all ways in.

        `whole` is for those who want the answer in one.
        """
        call.model = backend.model.name
        call.asked = translate.chat_request(request, call, backend.model)
        return await backend.chat.answer(call.asked, call.note, whole=whole)

    def ready(self) -> Backend:
        """What answers. Raises what a call is to be refused with, if it is."""
        self.readiness.require()
        assert self.backend is not None
        return self.backend
