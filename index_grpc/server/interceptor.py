"""The interceptor of the chat service: it reads a call's one message, turns errors into statuses, sets trailers."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from index_grpc.errors import IndexGrpcError
from index_grpc.server.answering import Answering
from index_grpc.server.call import REQUEST_ID, open_call
from index_grpc.server.calls import Calls, without_frames
from index_grpc.server.message import Parse, parsed, read_message
from index_grpc.server.servicer import CHAT_METHODS
from index_grpc.server.status import Context, Trailer, abort

LATEST_CANCEL_SECONDS = 5.0
"""How long a handler that cannot send waits to be cancelled: usually its caller has left."""

if TYPE_CHECKING:
    Handler = Any  # the stubs do not say that it may be None, nor that its behaviour may be a coroutine
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Handler, Interceptor = grpc.RpcMethodHandler, grpc.aio.ServerInterceptor

T = TypeVar("T")

Behaviour: TypeAlias = Callable[..., Coroutine[Any, Any, Message | None]]
"""Implements a method: returns the one response, or sends several and returns None."""
LoadTrailer: TypeAlias = Callable[[], Trailer]
"""Returns the trailer with the server's load."""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The outcome of a call: a response, unless all have been sent before, or a refusal."""

    id: str
    """The call's id."""
    response: Message | None = None
    refusal: IndexGrpcError | None = None


class CallInterceptor(Interceptor):
    """Wraps the handlers of one service; other services pass through."""

    def __init__(self, service: str, calls: Calls, answering: Answering, load_trailer: LoadTrailer) -> None:
        self._service, self._calls, self._answering, self._load_trailer = service, calls, answering, load_trailer
        self._wrapped: dict[str, Handler] = {}
        """Wrapped handlers by method. They are kept, since a service's handlers never change."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        service, _, method = details.method.removeprefix("/").rpartition("/")
        if handler is None or service != self._service:
            return handler
        if method not in self._wrapped:
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        handle = self._handle(method, handler.unary_stream or handler.unary_unary, handler.request_deserializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(handle, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(handle, None, handler.response_serializer)

    def _handle(self, method: str, behaviour: Behaviour, parse: Parse) -> Behaviour:
        """Returns a behaviour that answers a call, or ends it with the status of its error."""

        # Coroutines, also for streams: gRPC cancels them at once when the caller leaves, and `finally` clauses run.
        # The frame that aborts a call must not hold the request: gRPC and the abort's error refer to each other, and so
        # keep what is in that frame until Python collects such cycles, which may be after gigabytes of requests.
        async def handle(_: object, context: Context) -> Message | None:
            outcome = await self._outcome(method, behaviour, parse, context)
            if outcome.refusal is not None:
                return await _seen_through(abort(context, outcome.refusal, outcome.id, self._load_trailer()))
            context.set_trailing_metadata(((REQUEST_ID, outcome.id), self._load_trailer()))
            return outcome.response

        return handle

    async def _outcome(self, method: str, behaviour: Behaviour, parse: Parse, context: Context) -> CallOutcome:
        """Opens a call, answers it and returns the outcome."""
        data = await read_message(context)
        metadata, peer = dict(context.invocation_metadata() or ()), unquote(context.peer())
        call = open_call(method, metadata, peer, context.time_remaining())
        call.service, call.is_chat = self._service, method in CHAT_METHODS
        try:
            with self._calls.served(call):
                backend = self._answering.ready(for_answer=call.is_chat)  # refuses the call before parsing it
                work = behaviour(parsed(parse, data, backend.model.context_length), context)
                del data  # it may be large, and the call may wait for long
                return CallOutcome(call.id, await _seen_through(work))
        except IndexGrpcError as error:
            return CallOutcome(call.id, refusal=without_frames(error))


async def _seen_through(work: Awaitable[T]) -> T:
    """Awaits the work. If sending fails, waits to be cancelled.

    gRPC cannot send to a caller who has just left, and raises that error just before it cancels the handler.
    """
    try:
        return await work
    except grpc.aio.InternalError:
        await asyncio.sleep(LATEST_CANCEL_SECONDS)
        raise
