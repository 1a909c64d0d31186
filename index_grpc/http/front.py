"""What is done with every request before its path is looked up."""

import re
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from index_grpc.errors import InvalidRequest, Violation
from index_grpc.http.malformed import refuse_version
from index_grpc.http.problem import problem_of
from index_grpc.http.refusal import refusal

LENGTH, ENCODING = "content-length", "transfer-encoding"
TWO_LENGTHS = f"came with {LENGTH}; only one of them may say where the body ends; send one of them"

ORIGIN = re.compile(rb"https?://[^/]*", re.IGNORECASE)
"""What precedes the path if a request names a whole URL, as to a proxy; servers must accept that too (RFC 9112)."""


class Front:
    """An ASGI application around the one that knows the paths."""

    def __init__(self, paths: ASGIApp) -> None:
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called for each request."""
        scope = _with_path_alone(scope)
        await self._app_for(scope)(scope, receive, send)

    def _app_for(self, scope: Scope) -> ASGIApp:
        headers = Headers(scope=scope)
        if not scope["http_version"].startswith("1."):
            return refuse_version
        return _refuse_two_lengths if LENGTH in headers and ENCODING in headers else self._paths


def _with_path_alone(scope: Scope) -> Scope:
    """Returns the scope of a request for the path alone."""
    origin = ORIGIN.match(scope["raw_path"])
    if origin is None:
        return scope
    raw_path = scope["raw_path"][origin.end() :] or b"/"
    return {**scope, "raw_path": raw_path, "path": unquote(raw_path.decode("ascii"))}


async def _refuse_two_lengths(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuses the request and closes the connection.

    A proxy that goes by the other length takes a part of the body for a request of its own, or the reverse: what comes
    next on this connection may be what one caller slips in before another one's request.
    """
    problem = problem_of(InvalidRequest(Violation(ENCODING, TWO_LENGTHS)), "")
    response = refusal(scope, problem, "INVALID_ARGUMENT", {"connection": "close"})
    await response(scope, receive, send)
