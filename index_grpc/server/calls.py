"""What every call of the service has in common: an id, a deadline, errors as statuses and one line in the log."""

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import AbortError

from index_grpc.contract import Finish
from index_grpc.errors import IndexGrpcError, InvalidRequest, RequestFailed, Violation
from index_grpc.server.status import CODES, Context, abort

log = logging.getLogger("index_grpc.calls")

REQUEST_ID = "x-request-id"
GOOD_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

MOST_DEADLINE_MARGIN_SECONDS = 0.2
"""How long before a call's deadline its answer should leave, at most; for short deadlines a tenth of them."""


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
    """How the answer ended, for the log."""


if TYPE_CHECKING:
    Handler = Any  # the stubs do not say that it may be None, nor that its behaviour may be a coroutine
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Handler, Interceptor = grpc.RpcMethodHandler, grpc.aio.ServerInterceptor

_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call that the running handler serves."""
    return _current.get()


class CallInterceptor(Interceptor):
    """Wraps the handlers of one service; other services pass through."""

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        method, parse = details.method.removeprefix(self._prefix), handler.request_deserializer
        if handler.response_streaming:
            streaming = _streaming(method, handler.unary_stream, parse)
            return grpc.unary_stream_rpc_method_handler(streaming, None, handler.response_serializer)
        unary = _unary(method, handler.unary_unary, parse)
        return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)


def _unary(method: str, behaviour: Callable[..., Any], parse: Callable[[bytes], Message]) -> Callable[..., Any]:
    async def handle(data: bytes, context: Context) -> Message:
        async with _served(method, context):
            response: Message = await behaviour(_parsed(parse, data), context)
            return response
        raise AssertionError("an error was sent instead")

    return handle


def _streaming(method: str, behaviour: Callable[..., Any], parse: Callable[[bytes], Message]) -> Callable[..., Any]:
    # A coroutine that writes, not a generator: a caller who leaves then ends it at once, `finally` clauses and all.
    async def handle(data: bytes, context: Context) -> None:
        async with _served(method, context), aclosing(behaviour(_parsed(parse, data), context)) as responses:
            async for response in responses:
                await context.write(response)

    return handle


def _parsed(parse: Callable[[bytes], Message], data: bytes) -> Message:
    try:
        return parse(data)
    except DecodeError:
        problem = f"{len(data)} bytes that do not parse; send a message of index/v1/chat.proto, strings in UTF-8"
        raise InvalidRequest(Violation("request", problem)) from None


@asynccontextmanager
async def _served(method: str, context: Context) -> AsyncIterator[None]:
    """Opens the call, turns what goes wrong in it into a status, and logs how it ended."""
    call = _open(method, context)
    _current.set(call)
    context.set_trailing_metadata(((REQUEST_ID, call.id),))
    with _logged(call):
        try:
            yield
        except IndexGrpcError as error:
            await abort(context, error, call.id)
        except Exception:
            log.exception("request %s: %s broke", call.id, method)
            await abort(context, RequestFailed("the server broke while answering"), call.id)


def _open(method: str, context: Context) -> Call:
    metadata = dict(context.invocation_metadata() or ())
    given = metadata.get(REQUEST_ID, "")
    good = isinstance(given, str) and GOOD_REQUEST_ID.fullmatch(given)
    call = Call(method, given if good else uuid.uuid4().hex)
    left = context.time_remaining()
    if left is not None:
        call.deadline = call.arrival + left - min(MOST_DEADLINE_MARGIN_SECONDS, left / 10)
    return call


@contextmanager
def _logged(call: Call) -> Iterator[None]:
    code = "CANCELLED"  # unless something else is learned: a caller who leaves is seen only as the handler's end
    try:
        yield
        code = "OK"
    except AbortError as error:
        cause = error.__context__  # what was being handled when the call was aborted
        code = CODES[type(cause)].name if isinstance(cause, IndexGrpcError) else "INTERNAL"
        raise
    finally:
        log.info("%s", _line(call, code))


def _line(call: Call, code: str) -> str:
    words = [f"id={call.id}", f"method={call.method}", f"code={code}"]
    if call.finish is not None:
        finish = call.finish
        words += [f"finish={finish.reason.value}", f"prompt_tokens={finish.prompt_tokens}"]
        words += [f"completion_tokens={finish.completion_tokens}", f"queue_seconds={finish.timing.queue:.3f}"]
        words.append(f"first_token_seconds={finish.timing.time_to_first_token:.3f}")
    words.append(f"total_seconds={time.monotonic() - call.arrival:.3f}")
    return " ".join(words)
