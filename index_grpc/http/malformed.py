"""The answer to what is not valid HTTP. It is JSON like all others, where uvicorn's is plain text."""

from collections.abc import Sequence
from http import HTTPStatus

import h11
from starlette.responses import Response
from starlette.types import Scope

from index_grpc.http.problem import Problem
from index_grpc.http.refusal import refusal

REASON = "MALFORMED_HTTP"
HEAD_TOO_LARGE, NOT_IMPLEMENTED = 431, 501
QUOTATION = ": bytearray("
"""How a message of h11 goes on that quotes what came, which may be long."""


def refused(error: h11.RemoteProtocolError, client: tuple[str, int] | None) -> Response:
    """Returns the response for what a client sent that is not valid HTTP, and logs it."""
    scope: Scope = {"type": "http", "path": "", "headers": [], "client": client}  # none of it can be relied on
    code = "UNIMPLEMENTED" if error.error_status_hint == NOT_IMPLEMENTED else "INVALID_ARGUMENT"
    return refusal(scope, _problem(error), code, {"connection": "close"})


def _problem(error: h11.RemoteProtocolError) -> Problem:
    status = error.error_status_hint
    if status == HEAD_TOO_LARGE:
        return Problem(status, "the request line and the headers are too large; send at most 16 KiB of them", REASON)
    if status == NOT_IMPLEMENTED:
        return Problem(status, "the transfer-encoding is not supported; send the body as it is, or chunked", REASON)
    why = str(error).partition(QUOTATION)[0]
    return Problem(400, f"this is not valid HTTP/1.1 ({why}); is the client meant for this port?", REASON)


def events(response: Response, headers: Sequence[tuple[bytes, bytes]], *, has_body: bool) -> list[h11.Event]:
    """Returns the response, with more headers, as h11 sends it. That to a HEAD request has no body."""
    return [
        h11.Response(
            status_code=response.status_code,
            headers=[*headers, *response.raw_headers],
            reason=HTTPStatus(response.status_code).phrase,
        ),
        h11.Data(data=bytes(response.body) if has_body else b""),
        h11.EndOfMessage(),
    ]
