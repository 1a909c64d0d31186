"""The answer to what is not valid HTTP. It is JSON like all others, where uvicorn's is plain text."""

from collections.abc import Sequence
from http import HTTPStatus

import h11
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index_grpc.errors import MalformedHttp
from index_grpc.http.problem import Problem
from index_grpc.http.refusal import refusal

REASON, CLOSE = MalformedHttp.reason, (b"connection", b"close")
HEAD_TOO_LARGE, NOT_IMPLEMENTED, OTHER_VERSION = 431, 501, 505
NOTHING_KNOWN: Scope = {"type": "http", "path": "", "headers": []}
"""Stands for what a request is about where nothing of it can be relied on."""
QUOTATION = ": bytearray("
"""How a message of h11 goes on that quotes what came, which may be long."""


class BodyWatch:
    """The application of one connection. It tells the handler of a request if the body is not valid HTTP.

    Then the handler refuses the call, so that it is logged and counted once, by its path. The connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.error: h11.RemoteProtocolError | None = None
        """What is wrong with the body of the last request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called for each request. Where a handler does not read the body, only the connection's end is announced."""

        async def received() -> Message:
            message = await receive()
            if self.error is not None:
                raise MalformedHttp(_told(self.error))
            return message

        async def sent(message: Message) -> None:
            begins = message["type"] == "http.response.start"
            if begins and self.error is not None and CLOSE not in message["headers"]:
                message = {**message, "headers": [*message["headers"], CLOSE]}
            await send(message)

        await self._app(scope, received, sent)


def refused(error: h11.RemoteProtocolError, client: tuple[str, int] | None) -> Response:
    """Returns the response for what a client sent instead of a valid head, and logs it."""
    scope: Scope = {**NOTHING_KNOWN, "client": client}
    code = "UNIMPLEMENTED" if error.error_status_hint == NOT_IMPLEMENTED else "INVALID_ARGUMENT"
    return refusal(scope, _problem(error), code, {"connection": "close"})


async def refuse_version(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuses a request of another version than HTTP/1, as the first bytes of gRPC and HTTP/2 are, and closes."""
    version = scope["http_version"]
    told = f"this port speaks HTTP/1.1, not HTTP/{version}; gRPC is on another port of this server"
    unknown: Scope = {**NOTHING_KNOWN, "client": scope.get("client")}
    response = refusal(unknown, Problem(OTHER_VERSION, told, REASON), "UNIMPLEMENTED", {"connection": "close"})
    await response(scope, receive, send)


def _problem(error: h11.RemoteProtocolError) -> Problem:
    status = error.error_status_hint
    if status == HEAD_TOO_LARGE:
        return Problem(status, "the request line and the headers are too large; send at most 16 KiB of them", REASON)
    if status == NOT_IMPLEMENTED:
        return Problem(status, "the transfer-encoding is not supported; send the body as it is, or chunked", REASON)
    return Problem(400, _told(error), REASON)


def _told(error: h11.RemoteProtocolError) -> str:
    why = str(error).partition(QUOTATION)[0]
    return f"this is not valid HTTP/1.1 ({why}); is the client meant for this port?"


def events(response: Response, headers: Sequence[tuple[bytes, bytes]]) -> list[h11.Event]:
    """Returns the response, with more headers, as h11 sends it."""
    return [
        h11.Response(
            status_code=response.status_code,
            headers=[*headers, *response.raw_headers],
            reason=HTTPStatus(response.status_code).phrase,
        ),
        h11.Data(data=bytes(response.body)),
        h11.EndOfMessage(),
    ]
