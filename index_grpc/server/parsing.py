"""Reports bytes that do not parse as the caller's mistake; gRPC would call it ours, or leave the call open for ever."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from index_grpc.server.interceptor import Handler, Interceptor
from index_grpc.server.message import INCOMPLETE, read_message
from index_grpc.server.status import Context


class ParseInterceptor(Interceptor):
    """Parses messages to all services but the chat service, where CallInterceptor does it after checking the key."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(_unary(handler), None, handler.response_serializer)
        if handler.unary_stream:
            return grpc.stream_stream_rpc_method_handler(_streaming(handler), None, handler.response_serializer)
        return grpc.stream_stream_rpc_method_handler(_both_ways(handler), None, handler.response_serializer)


def _unary(handler: Handler) -> Callable[..., Any]:
    async def handle(_: object, context: Context) -> Message:
        request = await _parsed(handler, await read_message(context), context)
        response: Message = await handler.unary_unary(request, context)
        return response

    return handle


def _streaming(handler: Handler) -> Callable[..., Any]:
    async def handle(_: object, context: Context) -> AsyncIterator[Message]:
        request = await _parsed(handler, await read_message(context), context)
        async for response in handler.unary_stream(request, context):
            yield response

    return handle


def _both_ways(handler: Handler) -> Callable[..., Any]:
    async def parsed(items: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message]:
        async for data in items:
            yield await _parsed(handler, data, context)

    async def handle(items: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message]:
        async for response in handler.stream_stream(parsed(items, context), context):
            yield response

    return handle


async def _parsed(handler: Handler, data: bytes | None, context: Context) -> Message:
    if data is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, INCOMPLETE)
    try:
        request: Message = handler.request_deserializer(data)
    except DecodeError:
        problem = f"{len(data)} bytes that do not parse; send the message that this method takes, strings in UTF-8"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
    return request
