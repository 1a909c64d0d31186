"""The stream of one request's tokens from the engine to their reader."""

import asyncio
from collections.abc import Callable
from typing import Self

from index_grpc.datatypes import Timing, Token, TokenOutput, TokenRequest
from index_grpc.engine.orders import Report

MOST_AT_ONCE = 256
"""Most tokens that a reader gets at once: processing them, with all alternatives, delays other readers."""


class TokenStream:
    """What the engine generates for one request: an asynchronous iterator that ends when the request has ended.

    Outputs not yet read are joined, so a slow reader gets fewer and larger ones, of up to MOST_AT_ONCE tokens. The
    stream never holds more tokens than the request asked for. After the first token the reader waits for `interval`
    tokens or the end: waking it for each token costs time.
    """

    def __init__(self, request: TokenRequest, interval: int, cancel: Callable[[], None]) -> None:
        self.request, self._interval = request, interval
        self.num_tokens = 0
        """Tokens generated so far."""
        self.timing: Timing | None = None
        """The timing that came with the last token."""
        self.num_cached = 0
        """Prompt tokens that were reused from the cache, once there is a token."""
        self._cancel = cancel
        self._reader: asyncio.Future[None] | None = None
        """Set when there is something to read; None until a reader has waited."""
        self._tokens: list[Token] = []
        """Tokens not read yet."""
        self._latest: TokenOutput | None = None
        """The output that came last, until it is read."""
        self._error: Exception | None = None
        self._ended = self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenOutput:
        """Returns the tokens since the last call. Raises the IndexGrpcError that ended the request, if one did."""
        if not self._is_due:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._latest is not None:
            return self._take(self._latest)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the request, unless it has ended or is cancelled already."""
        if not (self._ended or self._closed):
            self._closed = True
            self._cancel()

    def _take(self, latest: TokenOutput) -> TokenOutput:
        tokens = tuple(self._tokens[:MOST_AT_ONCE])
        del self._tokens[:MOST_AT_ONCE]
        if self._tokens:
            return latest._replace(tokens=tokens, reason=None)
        self._latest = None
        return latest._replace(tokens=tokens)

    @property
    def _is_due(self) -> bool:
        """Whether the reader should get something now."""
        num_new = len(self._tokens)
        return self._ended or num_new >= self._interval or 0 < num_new == self.num_tokens

    def receive(self, report: Report) -> None:
        """Takes a report from the engine, and wakes the reader if there is something to read."""
        if report.output is not None:
            self.num_tokens += len(report.output.tokens)
            self.timing = report.output.timing
            self.num_cached = report.output.cached_prompt_tokens
            self._tokens += report.output.tokens
            self._latest = report.output
        self._error, self._ended = report.error, report.ended
        if self._is_due and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
