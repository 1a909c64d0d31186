"""The ASGI application of a path: what every call over HTTP has in common."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from index_grpc.errors import IndexGrpcError, InvalidRequest, MessageTooLarge, Violation
from index_grpc.http.problem import ErrorForm, problem_of
from index_grpc.http.response import ResponseWriter
from index_grpc.server.call import Call, Http, open_call
from index_grpc.server.calls import Calls, without_frames
from index_grpc.server.listen import bracketed
from index_grpc.server.status import quoted


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that has come whole, and where its response is sent."""

    call: Call
    body: bytes
    scope: Scope
    writer: ResponseWriter


Respond = Callable[[Exchange], Awaitable[None]]

CONTENT_ENCODING = "content-encoding"

BODY_SECONDS = 60.0
"""The time limit of the whole body: meanwhile the call counts as one of its key's open calls."""


class Endpoint:
    """An ASGI application: opens the call, has it answered while the caller is connected, and reports errors."""

    def __init__(
        self, calls: Calls, max_body_mib: int, path: str, answer: Respond, error_form: ErrorForm, *, is_chat: bool
    ) -> None:
        self._calls, self._max_body_mib = calls, max_body_mib
        self._path, self._answer, self._error_form, self._is_chat = path, answer, error_form, is_chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called for each request."""
        headers = Headers(scope=scope)
        call = open_call(self._path, headers, peer_of(scope.get("client")))
        writer = ResponseWriter(call.id, send)
        call.is_chat, call.http = self._is_chat, Http(scope["method"], scope["scheme"], writer.status)
        with suppress(asyncio.CancelledError):  # the caller has left: there is nobody to tell
            try:
                with self._calls.served(call):
                    body = await self._body_in_time(headers, receive)
                    call.arrived_whole()
                    async with _while_connected(receive, writer):
                        await self._answer(Exchange(call, body, scope, writer))
            except IndexGrpcError as error:
                await self._send_error(without_frames(error), call, writer)

    async def _body_in_time(self, headers: Headers, receive: Receive) -> bytes:
        try:
            return await asyncio.wait_for(self._body(headers, receive), BODY_SECONDS)
        except TimeoutError:
            problem = f"did not arrive completely within {BODY_SECONDS:g} s; send it faster, or less of it"
            raise InvalidRequest(Violation("body", problem)) from None

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Returns the whole body. Refuses one that is too large, even before it is read if its length is announced."""
        _refuse_compressed(headers)
        announced = headers.get("content-length", "")
        self._refuse_too_large(int(announced) if announced.isascii() and announced.isdigit() else 0)
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            self._refuse_too_large(size)
        return b"".join(parts)

    def _refuse_too_large(self, size: int) -> None:
        if size > self._max_body_mib * 2**20:
            told = f"the body has {size} bytes or more; allowed are {self._max_body_mib} MiB; send less"
            raise MessageTooLarge(told, max_message_mib=self._max_body_mib)

    async def _send_error(self, error: IndexGrpcError, call: Call, writer: ResponseWriter) -> None:
        problem = problem_of(error, call.id)
        told = self._error_form(problem)
        if writer.has_begun:  # only a stream of events can be broken off
            await writer.send_events([to_json(told)], last=True)
        else:
            await writer.send_json(told, problem.status, problem.headers)


def _refuse_compressed(headers: Headers) -> None:
    """Refuses a compressed body: a small one could unpack to gigabytes."""
    given = ", ".join(headers.getlist(CONTENT_ENCODING))
    if given.strip().lower() not in ("", "identity"):
        problem = f"is {quoted(given)}; bodies are read as they are; send it uncompressed"
        raise InvalidRequest(Violation(CONTENT_ENCODING, problem))


def peer_of(client: tuple[str, int] | None) -> str:
    """Returns a caller's address as gRPC writes it; empty if it is no longer known."""
    if client is None:
        return ""
    host, port = client
    address = ip_address(host)
    if isinstance(address, IPv6Address):  # an IPv4 caller of a port for both
        address = address.ipv4_mapped or address
    return f"ipv{address.version}:{bracketed(str(address))}:{port}"


@asynccontextmanager
async def _while_connected(receive: Receive, writer: ResponseWriter) -> AsyncIterator[None]:
    """Cancels the task inside the block as soon as the caller leaves. Nothing else may call `receive` meanwhile.

    A task that need not wait, since the whole answer is there, learns it from the writer.
    """
    inside = asyncio.current_task()
    assert inside is not None
    watching = asyncio.create_task(_disconnected(receive))
    watching.add_done_callback(lambda ended: ended.cancelled() or inside.cancel())
    writer.has_left = watching.done
    try:
        yield
    finally:
        writer.has_left = None
        watching.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
