"""The engine's door: requests go in from the event loop, streams of tokens come out."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from index_grpc.contract import Timing, TokenOutput, TokenRequest
from index_grpc.engine.loop import Cancel, Report, Stop, Submit
from index_grpc.engine.scheduler import Limits
from index_grpc.engine.worker import Worker
from index_grpc.errors import DeadlineTooShort, Draining, EngineLost, IndexGrpcError, Overloaded

SHORTEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.1, 30.0


class TokenStream:
    """What the engine generates for one request; an asynchronous iterator that ends after the finish.

    Outputs that nobody has taken yet are joined, so a slow reader gets fewer and larger ones; there are never more
    tokens in it than the request asked for.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._news = asyncio.Event()
        self._output: TokenOutput | None = None
        self._error: Exception | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenOutput:
        """The tokens since the last call. Raises the IndexGrpcError that ended the request, if one did."""
        if not (self._ended or self._output):
            await self._news.wait()
        self._news.clear()
        output, self._output = self._output, None
        if output is not None:
            return output
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leaves: whatever is still to be computed will not be."""
        if not self._ended:
            self._leave()

    def receive(self, report: Report) -> None:
        """Takes news from the engine."""
        if report.output is not None:
            self._output = self._output.then(report.output) if self._output else report.output
        self._error, self._ended = report.error, report.ended
        self._news.set()


class Pace:
    """How soon places become free, judged by how long the last few requests held theirs."""

    def __init__(self, num_places: int, num_remembered: int = 32) -> None:
        self._num_places = num_places
        self._held: deque[float] = deque(maxlen=num_remembered)

    def record(self, timing: Timing) -> None:
        """Notes a request that finished."""
        self._held.append(timing.total - timing.queue)

    @property
    def seconds(self) -> float:
        """Seconds from one place becoming free to the next when all are taken; 0 before anything is known."""
        return sum(self._held) / len(self._held) / self._num_places if self._held else 0.0


class Engine:
    """The door to a worker. Everything here happens on the event loop that called `start`."""

    def __init__(self, worker: Worker, limits: Limits, on_lost: Callable[[], None] = lambda: None) -> None:
        self.limits, self.pace, self.lost = limits, Pace(limits.max_sequences), False
        self._worker, self._on_lost = worker, on_lost
        self._streams: dict[int, TokenStream] = {}
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Starts the worker."""
        self._stopped, self._idle = asyncio.Event(), asyncio.Event()
        await self._worker.start(self._dispatch, self._close)

    async def stop(self) -> None:
        """Ends what is open at once and the worker after its current step."""
        self._end(Draining("the server stopped before the answer was complete; ask another one"))
        self._worker.post(Stop())
        await self._stopped.wait()

    def abandon(self) -> None:
        """Leaves the worker behind in a step that takes too long."""
        self._worker.abandon()

    async def until_idle(self) -> None:
        """Waits until no request is open."""
        while self._streams:
            self._idle.clear()
            await self._idle.wait()

    @property
    def is_replaceable(self) -> bool:
        """Whether another engine may take its place once it is lost."""
        return self._worker.is_replaceable

    @property
    def num_open(self) -> int:
        """Requests that run or wait."""
        return len(self._streams)

    def submit(self, request: TokenRequest) -> TokenStream:
        """Takes a request, or refuses it at once: Overloaded, DeadlineTooShort or EngineLost."""
        if self.lost:
            raise EngineLost("the engine has ended")
        self._refuse_if_full()
        self._refuse_if_late(request)
        number = next(self._numbers)
        stream = TokenStream(leave=lambda: self._worker.post(Cancel(number)))
        self._streams[number] = stream
        self._worker.post(Submit(number, request))
        return stream

    def expected_wait_seconds(self) -> float:
        """How long a request that came now would wait for its turn, by the present pace."""
        num_ahead = self.num_open - self.limits.max_sequences + 1
        return max(0, num_ahead) * self.pace.seconds

    def _refuse_if_full(self) -> None:
        running, waiting = self.limits.max_sequences, self.limits.max_waiting
        if self.num_open >= running + waiting:
            delay = min(max(self.pace.seconds, SHORTEST_DELAY_SECONDS), LONGEST_DELAY_SECONDS)
            raise Overloaded(f"all {running} places to run and {waiting} to wait are taken", delay)

    def _refuse_if_late(self, request: TokenRequest) -> None:
        if request.deadline is None:
            return
        left, wait = request.deadline - time.monotonic(), self.expected_wait_seconds()
        if wait >= left:
            raise DeadlineTooShort(f"{max(left, 0):.2f} s are left, and its turn comes in about {wait:.2f} s")

    def _dispatch(self, reports: list[Report]) -> None:
        """A step's news, of however many requests, in one hop."""
        for report in reports:
            stream = self._streams.get(report.number)
            if stream is None:  # ended by `stop` in the meantime
                continue
            stream.receive(report)
            if report.ended:
                del self._streams[report.number]
                if report.output is not None:
                    self.pace.record(report.output.timing)
        if not self._streams:
            self._idle.set()

    def _close(self) -> None:
        """The worker has ended."""
        self._stopped.set()
        if self._worker.broke:
            self._end(EngineLost("the engine broke; ask another server"))
            self._on_lost()

    def _end(self, error: IndexGrpcError) -> None:
        """Nothing is computed from now on, so all that is open fails."""
        self.lost = True
        self._dispatch([Report(number, error=error) for number in self._streams])
