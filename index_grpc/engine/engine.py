"""The engine as the server uses it: takes requests on the event loop and returns streams of tokens."""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from index_grpc.datatypes import Deadline, Timing, TokenRequest
from index_grpc.engine.deadlines import too_late
from index_grpc.engine.limits import Limits
from index_grpc.engine.orders import Cancel, EngineUpdate, Occupancy, Report, StepReport, Stop, Submit
from index_grpc.engine.pace import Pace
from index_grpc.engine.refusals import all_places_taken, too_long_a_wait, too_many_prompt_tokens
from index_grpc.engine.token_stream import TokenStream
from index_grpc.engine.worker import Worker
from index_grpc.errors import Draining, EngineLost, IndexGrpcError

RECENT_STEPS = 2048
"""Steps over which the longest is searched: enough to include a prefill chunk among many decode steps."""

EndError = Callable[[], IndexGrpcError]
"""Makes a new error at each call: one that is raised keeps its frames, so requests must not share it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineEvents:
    """Callbacks for events that matter beyond one request."""

    lost: Callable[[], None] = lambda: None
    """Called once, when the engine breaks or is given up."""
    stepped: Callable[[StepReport], None] = lambda step: None
    began: Callable[[Timing], None] = lambda timing: None
    """Called when an answer's first token has arrived."""
    cut_short: Callable[[int], None] = lambda num_tokens_saved: None
    """Called when the rest of an answer is not wanted, with the most tokens that then need not be generated."""


class Engine:
    """Passes requests to a worker and its tokens back. Everything here runs on the event loop that called `start`."""

    def __init__(self, worker: Worker, limits: Limits, events: EngineEvents | None = None) -> None:
        self.limits, self.pace = limits, Pace()
        self.num_updates, self.occupancy = 0, Occupancy()
        self._step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._worker, self._events = worker, events or EngineEvents()
        self._streams: dict[int, TokenStream] = {}
        self.num_waiting_prompt_tokens = 0
        """Prompt tokens of the requests that have no generated token yet."""
        self._cancelled: set[int] = set()
        """Numbers of the open requests that their readers have cancelled."""
        self._end_error: EndError | None = None
        """Makes the error that says why nothing is computed any more; None as long as requests are computed."""
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Starts the worker."""
        self._stopped, self._idle = asyncio.Event(), asyncio.Event()
        await self._worker.start(self._dispatch, self._close)

    async def stop(self, timeout_seconds: float) -> None:
        """Fails open requests at once and stops the worker after its step; abandons it after `timeout_seconds`."""
        self._end(partial(Draining, "the server stopped before the answer was complete; call another server"))
        self._worker.post(Stop())
        if self._stopped.is_set():
            return
        if not timeout_seconds:
            self._worker.abandon()
            return
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout_seconds)
        except TimeoutError:
            log.warning("the engine is still computing a step; leaving it behind")
            self._worker.abandon()

    def give_up(self) -> None:
        """Declares the engine lost and abandons its worker, whose step seems never to end."""
        self._worker.abandon()
        self._stopped.set()  # an abandoned worker does not tell its end
        self._lose()

    async def until_idle(self) -> None:
        """Waits until no request is open."""
        while self._streams:
            self._idle.clear()
            await self._idle.wait()

    @property
    def has_ended(self) -> bool:
        """Whether nothing is computed any more: the engine broke, was given up or was told to stop."""
        return self._end_error is not None

    @property
    def longest_step_seconds(self) -> float:
        """Duration of the longest of the last RECENT_STEPS steps, so that one rare slow step is forgotten."""
        return max(self._step_seconds, default=0.0)

    @property
    def is_replaceable(self) -> bool:
        """Whether another engine may take its place once it is lost."""
        return self._worker.is_replaceable

    @property
    def num_open(self) -> int:
        """Number of requests that run or wait."""
        return len(self._streams)

    @property
    def num_wanted(self) -> int:
        """Number of requests that run or wait, without cancelled ones, which end with this step."""
        return len(self._streams) - len(self._cancelled)

    @property
    def num_running(self) -> int:
        """Number of running requests, by the worker's last update."""
        return min(self.occupancy.num_running, self.num_open)

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests, including those that the worker has not seen yet."""
        return self.num_open - self.num_running

    @property
    def num_places(self) -> int:
        """How many requests can run at once: `max_sequences`, or fewer while others wait for memory."""
        return self.occupancy.num_places or self.limits.max_sequences

    @property
    def pace_seconds(self) -> float:
        """Mean seconds between two places becoming free while all are taken; 0 before the first request has ended."""
        return self.pace.seconds(self.num_places)

    def require_place(self, deadline: Deadline | None) -> None:
        """Refuses what needs no prompt to be refused, so that nothing is done for it; `submit` checks this again.

        Raises Overloaded, DeadlineTooShort, EngineLost or Draining.
        """
        if self._end_error is not None:
            raise self._end_error()
        self._refuse_if_full()
        if deadline is not None:
            self._refuse_if_late(deadline)

    def submit(self, request: TokenRequest, interval: int = 1) -> TokenStream:
        """Takes a request, or raises Overloaded, DeadlineTooShort, EngineLost or Draining at once.

        `interval` is how many tokens the stream's reader waits for, after the first.
        """
        self.require_place(request.deadline)
        self._refuse_if_prompts_wait(len(request.prompt_ids))
        number = next(self._numbers)
        stream = TokenStream(request, interval, cancel=lambda: self._cancel(number))
        self._streams[number] = stream
        self.num_waiting_prompt_tokens += len(request.prompt_ids)
        self._worker.post(Submit(number, request))
        return stream

    def expected_wait_seconds(self) -> float:
        """Estimates how long a request that arrived now would wait for a place to run, at the present pace."""
        num_ahead = self.num_wanted - self.num_places + 1
        return max(0, num_ahead) * self.pace_seconds

    def _refuse_if_full(self) -> None:
        most_open = self.limits.max_sequences + self.limits.max_waiting
        # The place of a cancelled request is free for the next step, but cancelling must not let the queue grow
        # without end.
        if self.num_wanted >= most_open or self.num_open >= 2 * most_open:
            raise all_places_taken(self.limits, self.pace_seconds)

    def _refuse_if_prompts_wait(self, num_prompt: int) -> None:
        num_waiting = self.num_waiting_prompt_tokens
        if num_waiting and num_waiting + num_prompt > self.limits.max_waiting_tokens:
            raise too_many_prompt_tokens(num_waiting, num_prompt, self.limits, self.pace_seconds)

    def _refuse_if_late(self, deadline: Deadline) -> None:
        seconds_left, wait_seconds = deadline.instant - time.monotonic(), self.expected_wait_seconds()
        if seconds_left <= 0:
            raise too_late(deadline)
        if wait_seconds >= seconds_left:
            raise too_long_a_wait(wait_seconds, seconds_left, deadline)

    def _cancel(self, number: int) -> None:
        stream = self._streams[number]
        request = stream.request
        most = min(request.max_tokens, self.limits.context_length - len(request.prompt_ids))
        self._cancelled.add(number)
        self._worker.post(Cancel(number))
        self._events.cut_short(most - stream.num_tokens)

    def _dispatch(self, update: EngineUpdate) -> None:
        """Handles an update: one callback for all requests of a step."""
        self.num_updates += 1
        for report in update.reports:
            stream = self._streams.get(report.number)
            if stream is not None:  # else ended by `stop` in the meantime
                self._pass_on(report, stream)
        self.occupancy = update.occupancy
        if update.step is not None:
            self._step_seconds.append(update.step.seconds)
            self._events.stepped(update.step)
        if not self._streams:
            self._idle.set()

    def _pass_on(self, report: Report, stream: TokenStream) -> None:
        had_begun = stream.num_tokens > 0
        stream.receive(report)
        if not had_begun and (stream.num_tokens or report.ended):
            self.num_waiting_prompt_tokens -= len(stream.request.prompt_ids)
        if not had_begun and report.output is not None:
            self._events.began(report.output.timing)
        if report.ended:
            del self._streams[report.number]
            self._cancelled.discard(report.number)
            if stream.timing is not None:
                self.pace.record(stream.timing)

    def _close(self) -> None:
        """Called when the worker has ended."""
        self._stopped.set()
        if self._worker.broke:
            self._lose()

    def _lose(self) -> None:
        if not self.has_ended:
            self._end(partial(EngineLost, "the engine broke; call another server"))
            self._events.lost()

    def _end(self, error: EndError) -> None:
        """Fails all open requests; nothing is computed from now on."""
        self._end_error = error
        self._dispatch(EngineUpdate([Report(number, error=error()) for number in self._streams], Occupancy()))
