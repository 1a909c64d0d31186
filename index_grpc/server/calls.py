"""What every call of the service has in common: an id, a deadline, a caller, errors as statuses."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from index_grpc.access.gate import Gate
from index_grpc.contract import ChatRequest, Chunk, Finish
from index_grpc.errors import IndexGrpcError, InvalidRequest, RequestFailed, Violation
from index_grpc.server.status import CODES, Context, Trailer, abort

log = logging.getLogger(__name__)

REQUEST_ID, AUTHORIZATION = "x-request-id", "authorization"
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
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """gRPC's metadata or the headers of HTTP, names in lower case; of one that came more than once the last."""
    arrival: float = field(default_factory=time.monotonic)
    created: float = field(default_factory=time.time)
    """Seconds since 1970."""
    deadline: float | None = None
    """Instant by which the answer should leave, a little before the caller stops listening."""
    model: str = ""
    """Name of the model that was to answer."""
    asked: ChatRequest | None = None
    """What was asked, once it is checked."""
    deltas: list[str] = field(default_factory=list)
    """The text answered so far."""
    finish: Finish | None = None
    """How the answer ended, if it did."""
    caller: str = ""
    """Name of its API key; empty if the server asks for none."""
    error: IndexGrpcError | None = None
    """Why it was refused or broken off, if it was."""
    service: str = ""
    """Name of the gRPC service; empty for a call over HTTP, whose method is its path."""
    code: str = "CANCELLED"
    """Name of its status code, right once it has ended: a caller who leaves is seen only as the handler's end."""

    trace_id: str = ""
    """The trace it belongs to, where traces are written."""

    @property
    def system(self) -> str:
        """What it came by: `grpc` or `http`."""
        return "grpc" if self.service else "http"

    @property
    def full_method(self) -> str:
        """The method with its service's name, or the path."""
        return f"{self.service}/{self.method}" if self.service else self.method

    @property
    def seconds(self) -> float:
        """Since its arrival."""
        return time.monotonic() - self.arrival

    def note(self, chunk: Chunk) -> None:
        """Takes down a part of the answer."""
        self.deltas.append(chunk.delta)
        self.finish = chunk.finish


Ended = Callable[[Call], None]
LoadTrailer = Callable[[], Trailer]
"""Makes the trailer that tells how loaded the server is."""


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


class Calls:
    """What goes for every call, whichever port it comes through."""

    def __init__(self, gate: Gate, ended: Ended) -> None:
        self._gate, self._ended = gate, ended
        self.num_open = 0
        self._idle = asyncio.Event()

    async def until_idle(self) -> None:
        """Waits until no call is open."""
        while self.num_open:
            self._idle.clear()
            await self._idle.wait()

    @contextmanager
    def served(self, call: Call) -> Iterator[None]:
        """Asks at the gate, then notes how the call ends, and tells of it.

        What goes wrong leaves as an IndexGrpcError, for the call's port.
        """
        _current.set(call)
        self.num_open += 1
        try:
            caller = self._gate.caller(authorization(call.metadata))
            call.caller = caller.name
            with self._gate.counted(caller):
                yield
            call.code = "OK"
        except IndexGrpcError as error:
            _fail(call, error)
            raise
        except Exception:
            log.exception("request %s: %s broke", call.id, call.method)
            failure = RequestFailed("the server broke while answering")
            _fail(call, failure)
            raise failure from None
        finally:
            self.num_open -= 1
            if not self.num_open:
                self._idle.set()
            self._ended(call)


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
                    async with _sending():
                        await context.write(response)

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
            async with _sending():
                await abort(context, error, call.id, self._load_trailer())


@asynccontextmanager
async def _sending() -> AsyncIterator[None]:
    """gRPC cannot send to a caller who leaves at this very moment, and says so just before it cancels the handler."""
    try:
        yield
    except grpc.aio.InternalError:
        await asyncio.sleep(LATEST_CANCEL_SECONDS)
        raise


def authorization(metadata: Mapping[str, Any]) -> str:
    """The header of that name; empty if there is none."""
    return str(metadata.get(AUTHORIZATION, ""))


def _parsed(parse: Parse, data: bytes) -> Message:
    try:
        return parse(data)
    except DecodeError:
        problem = f"{len(data)} bytes that do not parse; send a message of index/v1/chat.proto, strings in UTF-8"
        raise InvalidRequest(Violation("request", problem)) from None


def open_call(method: str, metadata: Mapping[str, Any], seconds_left: float | None = None) -> Call:
    """A call that has just arrived; `seconds_left` is how long its caller will listen, if that is known."""
    call = Call(method, request_id(metadata), metadata)
    if seconds_left is not None:
        call.deadline = call.arrival + seconds_left - min(MOST_DEADLINE_MARGIN_SECONDS, seconds_left / 10)
    return call


def request_id(metadata: Mapping[str, Any]) -> str:
    """The caller's own, if it is a good one, else a new one."""
    given = metadata.get(REQUEST_ID, "")
    good = isinstance(given, str) and GOOD_REQUEST_ID.fullmatch(given)
    return given if good else uuid.uuid4().hex


def _fail(call: Call, error: IndexGrpcError) -> None:
    call.error, call.code = error, CODES[type(error)].name
