"""What every call of the service over gRPC has in common: errors as statuses, trailers, bytes that do not parse."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from index_grpc.errors import IndexGrpcError, InvalidRequest, Violation
from index_grpc.server.calls import REQUEST_ID, Calls, open_call
from index_grpc.server.status import Context, Trailer, abort

LATEST_CANCEL_SECONDS = 5.0
"""How long after a failure to send the handler waits for the cancel that explains it."""

if TYPE_CHECKING:
    Handler = Any  # the stubs do not say that it may be None, nor that its behaviour may be a coroutine
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Handler, Interceptor = grpc.RpcMethodHandler, grpc.aio.ServerInterceptor

Behaviour: TypeAlias = Callable[..., Any]
Parse: TypeAlias = Callable[[bytes], Message]
LoadTrailer: TypeAlias = Callable[[], Trailer]
"""Makes the trailer that tells how loaded the server is."""


class CallInterceptor(Interceptor):
    """Wraps the handlers of one service; other services pass through."""

    def __init__(self, service: str, calls: Calls, load_trailer: LoadTrailer) -> None:
        self._service, self._calls, self._load_trailer = service, calls, load_trailer

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        service, _, method = details.method.removeprefix("/").rpartition("/")
        if handler is None or service != self._service:
            return handler
        parse = handler.request_deserializer
        if handler.response_streaming:
            streaming = self._streaming(method, handler.unary_stream, parse)
            return grpc.unary_stream_rpc_method_handler(streaming, None, handler.response_serializer)
        unary = self._unary(method, handler.unary_unary, parse)
        return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)

    def _unary(self, method: str, behaviour: Behaviour, parse: Parse) -> Behaviour:
        async def handle(data: bytes, context: Context) -> Message:
            async with self._served(method, context):
                response: Message = await behaviour(_parsed(parse, data), context)
                return response
            raise AssertionError("an error was sent instead")

        return handle

    def _streaming(self, method: str, behaviour: Behaviour, parse: Parse) -> Behaviour:
        # A coroutine that writes, not a generator: a caller who leaves then ends it at once, `finally` clauses and all.
        async def handle(data: bytes, context: Context) -> None:
            async with (
                self._served(method, context),
                aclosing(behaviour(_parsed(parse, data), context)) as responses,
            ):
                async for response in responses:
                    await _sent(context.write(response))

        return handle

    @asynccontextmanager
    async def _served(self, method: str, context: Context) -> AsyncIterator[None]:
        """Opens the call and turns what goes wrong in it into a status."""
        call = open_call(method, dict(context.invocation_metadata() or ()), context.time_remaining())
        call.service = self._service
        try:
            with self._calls.served(call):
                yield
            context.set_trailing_metadata(((REQUEST_ID, call.id), self._load_trailer()))
        except IndexGrpcError as error:
            await _sent(abort(context, error, call.id, self._load_trailer()))


async def _sent(sending: Awaitable[None]) -> None:
    """gRPC cannot send to a caller who leaves at this very moment, and says so just before it cancels the handler."""
    try:
        await sending
    except grpc.aio.InternalError:
        await asyncio.sleep(LATEST_CANCEL_SECONDS)
        raise


def _parsed(parse: Parse, data: bytes) -> Message:
    try:
        return parse(data)
    except DecodeError:
        problem = f"{len(data)} bytes that do not parse; send a message of index/v1/chat.proto, strings in UTF-8"
        raise InvalidRequest(Violation("request", problem)) from None
