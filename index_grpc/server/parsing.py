"""Reports bytes that do not parse as the caller's mistake; gRPC would call it ours, or leave the call open for ever."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from index_grpc.server.calls import without_frames
from index_grpc.server.interceptor import Handler, Interceptor
from index_grpc.server.message import INCOMPLETE, read_message
from index_grpc.server.status import Context

MOST_BYTES = 64 * 1024
"""The largest message to a service that is not the chat service: names and intervals. An open stream holds its last."""


class ParseInterceptor(Interceptor):
    """Parses messages to all services but the chat service, where CallInterceptor does it after checking the key."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:  # CallInterceptor's handlers take bytes
            return handler
        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(_unary(handler), None, handler.response_serializer)
        if handler.unary_stream:
            return grpc.stream_stream_rpc_method_handler(_streaming(handler), None, handler.response_serializer)
        return grpc.stream_stream_rpc_method_handler(_both_ways(handler), None, handler.response_serializer)


# gRPC and the error of an aborted call refer to each other. So none of these frames holds the request, and the frames
# that do are taken from the error.


def _unary(handler: Handler) -> Callable[..., Any]:
    async def handle(_: object, context: Context) -> Message:
        try:
            response: Message = await handler.unary_unary(await _read(handler, context), context)
        except grpc.aio.AbortError as error:
            raise without_frames(error) from None
        return response

    return handle


def _streaming(handler: Handler) -> Callable[..., Any]:
    async def handle(_: object, context: Context) -> AsyncIterator[Message]:
        try:
            async for response in handler.unary_stream(await _read(handler, context), context):
                yield response
        except grpc.aio.AbortError as error:
            raise without_frames(error) from None

    return handle


def _both_ways(handler: Handler) -> Callable[..., Any]:
    async def parsed(context: Context) -> AsyncIterator[Message]:
        while isinstance(data := await context.read(), bytes):  # gRPC's own iterator would hold the last message
            yield await _parsed(handler, data, context)

    async def handle(_: object, context: Context) -> AsyncIterator[Message]:
        try:
            async for response in handler.stream_stream(parsed(context), context):
                yield response
        except grpc.aio.AbortError as error:
            raise without_frames(error) from None

    return handle


async def _read(handler: Handler, context: Context) -> Message:
    return await _parsed(handler, await read_message(context), context)


async def _parsed(handler: Handler, data: bytes | None, context: Context) -> Message:
    if data is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, INCOMPLETE)
    if len(data) > MOST_BYTES:
        problem = f"the message has {len(data)} bytes; this method takes at most {MOST_BYTES}; send less"
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
    try:
        request: Message = handler.request_deserializer(data)
    except DecodeError:
        problem = f"{len(data)} bytes that do not parse; send the message that this method takes, strings in UTF-8"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
    return request
