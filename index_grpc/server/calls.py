"""What every call of the service has in common: an id, a deadline, errors as statuses and one line in the log."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from index_grpc.contract import Finish
from index_grpc.errors import IndexGrpcError, InvalidRequest, RequestFailed, Violation
from index_grpc.server.status import CODES, Context, abort

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
GOOD_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

MOST_DEADLINE_MARGIN_SECONDS = 0.2
"""How long before a call's deadline its answer should leave, at most; for short deadlines a tenth of them."""

LATEST_CANCEL_SECONDS = 5.0
"""How long after a failure to send the handler waits for the cancel that explains it."""


@dataclass(slots=True)
class Call:
    """One call in progress."""

    method: str
    id: str
    arrival: float = field(default_factory=time.monotonic)
    created: float = field(default_factory=time.time)
    """Seconds since 1970."""
    deadline: float | None = None
    """Instant by which the answer should leave, a little before the caller stops listening."""
    finish: Finish | None = None
    """How the answer ended, if it did."""
    error: IndexGrpcError | None = None
    """Why it was refused or broken off, if it was."""
    code: str = "CANCELLED"
    """Name of its status code, right once it has ended: a caller who leaves is seen only as the handler's end."""

    @property
    def seconds(self) -> float:
        """Since its arrival."""
        return time.monotonic() - self.arrival


Ended = Callable[[Call], None]


if TYPE_CHECKING:
    Handler = Any  # the stubs do not say that it may be None, nor that its behaviour may be a coroutine
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Handler, Interceptor = grpc.RpcMethodHandler, grpc.aio.ServerInterceptor

Behaviour: TypeAlias = Callable[..., Any]
Parse: TypeAlias = Callable[[bytes], Message]

_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call that the running handler serves."""
    return _current.get()


class CallInterceptor(Interceptor):
    """Wraps the handlers of one service; other services pass through. Tells of each call that has ended."""

    def __init__(self, service: str, ended: Ended) -> None:
        self._prefix, self._ended = f"/{service}/", ended

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        method, parse = details.method.removeprefix(self._prefix), handler.request_deserializer
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
                    async with _sending():
                        await context.write(response)

        return handle

    @asynccontextmanager
    async def _served(self, method: str, context: Context) -> AsyncIterator[None]:
        """Opens the call, turns what goes wrong in it into a status, and tells that it has ended."""
        call = _open(method, context)
        _current.set(call)
        context.set_trailing_metadata(((REQUEST_ID, call.id),))
        try:
            yield
            call.code = "OK"
        except IndexGrpcError as error:
            await self._abort(call, context, error)
        except Exception:
            log.exception("request %s: %s broke", call.id, method)
            await self._abort(call, context, RequestFailed("the server broke while answering"))
        finally:
            self._ended(call)

    async def _abort(self, call: Call, context: Context, error: IndexGrpcError) -> NoReturn:
        call.error, call.code = error, CODES[type(error)].name
        async with _sending():
            await abort(context, error, call.id)
        raise AssertionError("abort always raises")


@asynccontextmanager
async def _sending() -> AsyncIterator[None]:
    """gRPC cannot send to a caller who leaves at this very moment, and says so just before it cancels the handler."""
    try:
        yield
    except grpc.aio.InternalError:
        await asyncio.sleep(LATEST_CANCEL_SECONDS)
        raise


def _parsed(parse: Parse, data: bytes) -> Message:
    try:
        return parse(data)
    except DecodeError:
        problem = f"{len(data)} bytes that do not parse; send a message of index/v1/chat.proto, strings in UTF-8"
        raise InvalidRequest(Violation("request", problem)) from None


def _open(method: str, context: Context) -> Call:
    metadata = dict(context.invocation_metadata() or ())
    given = metadata.get(REQUEST_ID, "")
    good = isinstance(given, str) and GOOD_REQUEST_ID.fullmatch(given)
    call = Call(method, given if good else uuid.uuid4().hex)
    left = context.time_remaining()
    if left is not None:
        call.deadline = call.arrival + left - min(MOST_DEADLINE_MARGIN_SECONDS, left / 10)
    return call
