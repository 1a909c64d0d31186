"""Sends responses, whole or as server-sent events."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Send

from index_grpc.errors import IndexGrpcError
from index_grpc.http.problem import problem_of
from index_grpc.server.call import REQUEST_ID

EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold events back
}


def json_response(value: object, status: int, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns a JSON response with the request's id in a header."""
    sent = {**(headers or {}), REQUEST_ID: request_id}
    return Response(to_json(value), status, sent, media_type="application/json")


class ResponseWriter:
    """Sends the one response to a request."""

    def __init__(self, request_id: str, send: Send) -> None:
        self._status: int | None = None
        self._request_id, self._send = request_id, send
        self.has_left: Callable[[], bool] | None = None
        """Says whether the caller has left; None while nobody watches for that."""

    @property
    def has_begun(self) -> bool:
        """Whether the headers have been sent."""
        return self._status is not None

    def status(self, error: IndexGrpcError | None) -> int | None:
        """Returns the status that was sent, or will be sent with the error; None for no response. See Http."""
        return problem_of(error, self._request_id).status if error and not self.has_begun else self._status

    async def send_json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Sends the whole response. Raises CancelledError if the caller leaves first."""
        response = json_response(value, status, self._request_id, headers)
        await self._start(status, response.raw_headers)
        await self._send_part(bytes(response.body))
        await self._end()

    async def send_events(self, events: Sequence[bytes], *, last: bool = False) -> None:
        """Sends more of a response as events. The headers are sent with the first of them.

        Raises CancelledError if the caller leaves first.
        """
        if not self.has_begun:
            headers = {**EVENT_HEADERS, REQUEST_ID: self._request_id}
            await self._start(200, [(name.encode(), value.encode()) for name, value in headers.items()])
        body = b"".join(b"data: %b\n\n" % event for event in events)
        await self._send_part(body)
        if last:
            await self._end()

    async def _send_part(self, body: bytes) -> None:
        """Sends a part, once most of what was sent before has been taken. The server ignores what comes too late."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._require_caller()

    async def _end(self) -> None:
        """Ends the response. If somebody watches, waits until the caller has taken most of it."""
        if self.has_left is not None:
            await self._send_part(b"")
            await asyncio.sleep(0)  # if that wait ended because the caller left, the watcher may see it only after us
            self._require_caller()
        await self._send({"type": "http.response.body"})

    def _require_caller(self) -> None:
        if self.has_left is not None and self.has_left():
            raise asyncio.CancelledError

    async def _start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
