"""The four methods of the chat service. Each translates the request, has it answered and translates the answer."""

from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceServicer

from index_grpc.server import translate
from index_grpc.server.answering import Answering
from index_grpc.server.calls import current_call
from index_grpc.server.status import Context

SERVICE: str = pb.DESCRIPTOR.services_by_name["ChatService"].full_name
CHAT_METHODS = ("Chat", "ChatStream")
"""The methods that ask for an answer."""


class ChatServicer(ChatServiceServicer):
    """The chat service as gRPC calls it."""

    def __init__(self, answering: Answering, max_message_bytes: int) -> None:
        """`max_message_bytes` is the size of the largest message that the server takes."""
        self._answering, self._max_message_bytes = answering, max_message_bytes

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        """Returns the whole answer in one message."""
        call, backend = current_call(), self._answering.ready()
        with await self._answering.answer(request, call, backend, whole=True) as chunks:
            del request  # it may be large, and the call may wait for long
            assert call.request is not None
            return await translate.chat_response(chunks, call.request, call, backend.model)

    async def ChatStream(  # type: ignore[override] # the stubs do not say that it may write
        self,
        request: pb.ChatRequest,
        context: Context,
    ) -> None:
        """Sends the answer as it is generated. gRPC sends the headers with the first message."""
        call, backend = current_call(), self._answering.ready()
        with await self._answering.answer(request, call, backend) as chunks:
            del request
            async for chunk in chunks:
                await context.write(translate.chat_stream_response(chunk, call, backend.model))

    async def CountTokens(
        self,
        request: pb.CountTokensRequest,
        context: Context,
    ) -> pb.CountTokensResponse:
        """Counts the tokens of a prompt with its history."""
        backend = self._answering.ready()
        ids = await backend.chat.prompt_ids(translate.messages_to_count(request, backend.model))
        return translate.count_response(len(ids), backend.model)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describes the served model."""
        backend = self._answering.ready()
        return translate.model_response(backend.model, backend.chat.engine.limits, self._max_message_bytes)
