"""What every call of the service over gRPC has in common: one message, errors as statuses, trailers."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from index_grpc.errors import IndexGrpcError
from index_grpc.server.calls import REQUEST_ID, Calls, open_call
from index_grpc.server.message import Parse, parsed, read_message
from index_grpc.server.servicer import CHAT_METHODS
from index_grpc.server.status import Context, Trailer, abort

LATEST_CANCEL_SECONDS = 5.0
"""How long a handler that cannot send waits for the cancel that explains it."""

if TYPE_CHECKING:
    Handler = Any  # the stubs do not say that it may be None, nor that its behaviour may be a coroutine
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Handler, Interceptor = grpc.RpcMethodHandler, grpc.aio.ServerInterceptor

T = TypeVar("T")

Behaviour: TypeAlias = Callable[..., Coroutine[Any, Any, Message | None]]
"""Answers with one message, or sends several itself."""
LoadTrailer: TypeAlias = Callable[[], Trailer]
"""Makes the trailer that tells how loaded the server is."""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What a call came to: a response, if not all were sent before, or a refusal."""

    id: str
    """The call's."""
    response: Message | None = None
    refusal: IndexGrpcError | None = None


class CallInterceptor(Interceptor):
    """Wraps the handlers of one service; other services pass through."""

    def __init__(
        self, service: str, calls: Calls, context_length: Callable[[], int], load_trailer: LoadTrailer
    ) -> None:
        """`context_length` is the model's; it raises what a call is to be refused with, if it is."""
        self._service, self._calls = service, calls
        self._context_length, self._load_trailer = context_length, load_trailer
        self._wrapped: dict[str, Handler] = {}
        """By their methods: a service's handlers stay what they are."""

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
        """Answers a call, or turns what went wrong in it into a status."""

        # Coroutines, also for streams: a caller who leaves ends them at once, `finally` clauses and all.
        # What is to be told stands apart from what was asked: gRPC and the error that aborts a call hold each other and
        # so whatever is in its frames, until Python looks for such cycles, which may be after gigabytes of requests.
        async def handle(_: object, context: Context) -> Message | None:
            outcome = await self._outcome(method, behaviour, parse, context)
            if outcome.refusal is not None:
                return await _seen_through(abort(context, outcome.refusal, outcome.id, self._load_trailer()))
            context.set_trailing_metadata(((REQUEST_ID, outcome.id), self._load_trailer()))
            return outcome.response

        return handle

    async def _outcome(self, method: str, behaviour: Behaviour, parse: Parse, context: Context) -> CallOutcome:
        """Opens a call, and has it answered."""
        data = await read_message(context)
        metadata, peer = dict(context.invocation_metadata() or ()), unquote(context.peer())
        call = open_call(method, metadata, peer, context.time_remaining())
        call.service, call.is_chat = self._service, method in CHAT_METHODS
        try:
            with self._calls.served(call):
                request = parsed(parse, data, self._context_length())
                return CallOutcome(call.id, await _seen_through(behaviour(request, context)))
        except IndexGrpcError as error:
            return CallOutcome(call.id, refusal=_without_frames(error))


def _without_frames(error: IndexGrpcError) -> IndexGrpcError:
    """The error alone: no longer those that led to it, nor the functions that they came through."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


async def _seen_through(work: Awaitable[T]) -> T:
    """gRPC cannot send to a caller who leaves at this very moment, and says so just before it cancels the handler."""
    try:
        return await work
    except grpc.aio.InternalError:
        await asyncio.sleep(LATEST_CANCEL_SECONDS)
        raise
