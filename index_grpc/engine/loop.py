"""The engine's thread: schedule → launch → collect → commit → deliver, until told to stop."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Protocol

from index_grpc.contract import FinishReason, Token, TokenOutput
from index_grpc.engine.deadlines import Deadlines
from index_grpc.engine.orders import Cancel, Held, News, Order, Report, StepReport, Stop, Submit
from index_grpc.engine.outcomes import Outcome, paired, raise_if_lost
from index_grpc.engine.scheduler import Scheduler
from index_grpc.engine.sequence import Batch, Sequence
from index_grpc.errors import DeadlineTooShort, IndexGrpcError, RequestFailed

log = logging.getLogger(__name__)


Deliver = Callable[[News], None]


class Launched(Protocol):
    """A step that the device computes."""

    def wait(self) -> list[Token | Exception]:
        """A token, or why there is none, for each span that samples, in the batch's order. May raise for all of it."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A step that was computed when it was launched."""

    tokens: list[Token]

    def wait(self) -> list[Token | Exception]:
        """See Launched."""
        return list(self.tokens)


class Runner(Protocol):
    """What the loop needs of a device. Steps are computed in the order in which they are launched."""

    rows_independent: bool
    """Whether a sequence's tokens are the same in any batch. If not, the loop computes one sequence at a time."""
    run_ahead: int
    """How many steps may be under way when another is launched; none where a launch computes at once."""

    def launch(self, batch: Batch) -> Launched:
        """Begins to compute the batch: copies first, then the spans, and draws a token for each that samples.

        All or nothing: after a failure it may be called again with the same spans. An error with a true `device_lost`
        says that nothing can be computed any more.
        """


@dataclass(frozen=True, slots=True)
class Flight:
    """A step under way."""

    batch: Batch
    launched: Launched
    launched_at: float


class Loop:
    """Owns the scheduler and the runner; everything else talks to it through the inbox."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, deliver: Deliver, inbox: "SimpleQueue[Order] | None" = None
    ) -> None:
        self.scheduler, self.runner, self.deliver = scheduler, runner, deliver
        self.inbox: SimpleQueue[Order] = inbox or SimpleQueue()
        self.sequences: dict[int, Sequence] = {}
        self.deadlines = Deadlines()
        self.step_seconds = 0.0
        self._flights: deque[Flight] = deque()
        """Steps under way, the oldest first."""
        self._collected_at, self._num_preemptions = 0.0, 0

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to compute or to wait for."""
        return bool(self.sequences or self._flights)

    def run(self) -> None:
        """Works until stopped. What is still open then is the door's to end."""
        while self._receive():
            self.step()

    def follow(self, order: Submit | Cancel) -> None:
        """Takes a request in, or lets one go."""
        if isinstance(order, Submit):
            self.sequences[order.number] = self.scheduler.add(order.number, order.request)
            if order.request.deadline is not None:
                self.deadlines.note(order.request.deadline, order.number, still_open=self.sequences)
        elif order.number in self.sequences:
            report = self._retire(self.sequences[order.number])
            self.deliver(News([report], self._held()))

    def step(self) -> None:
        """One turn: launches a step and, if enough are under way or there is none to launch, collects the oldest."""
        batch = self.scheduler.schedule(time.monotonic())
        if batch.spans:
            self._launch(batch)
        elif not self._flights:
            raise RuntimeError(f"{len(self.sequences)} sequences are open, yet none of them can be computed")
        if self._flights and (not batch.spans or len(self._flights) > self.runner.run_ahead):
            self._collect()

    def check_books(self) -> None:
        """With nothing to compute, nothing may be held but kept prefixes; raises if something is."""
        self.scheduler.check_books()

    def _receive(self) -> bool:
        """Follows the orders in the inbox, waiting for one if there is nothing to compute. False when told to stop."""
        while not self.is_busy or not self.inbox.empty():
            if not self.is_busy:
                self.check_books()
            order = self.inbox.get()
            if isinstance(order, Stop):
                return False
            self.follow(order)
        return True

    def _launch(self, batch: Batch) -> None:
        launched_at = time.monotonic()
        if not self.runner.rows_independent:
            self._finish(self._each_alone(batch), launched_at)
            return
        try:
            launched = self.runner.launch(batch)
        except Exception as error:
            _warn(batch, error)
            while self._flights:
                self._collect()
            self._finish(self._each_alone(batch), launched_at)
            return
        for span in batch.spans:
            span.launch()
        self._flights.append(Flight(batch, launched, launched_at))

    def _collect(self) -> None:
        """Waits for the oldest step under way and commits what it brought."""
        flight = self._flights.popleft()
        try:
            outcomes = paired(flight.batch.spans, flight.launched.wait())
        except Exception as error:
            _warn(flight.batch, error)
            self._take_back(flight.batch)
            outcomes = self._each_alone(flight.batch)
        self._finish(outcomes, flight.launched_at)

    def _take_back(self, batch: Batch) -> None:
        """As if neither this batch nor those after it had been launched: the later ones build upon it.

        What they copied from may have changed since, so who began with a copy begins again.
        """
        later = [flight.batch for flight in self._flights]
        while self._flights:
            _wait_in_vain(self._flights.popleft().launched)
        for one in reversed([batch, *later]):
            for span in one.spans:
                span.take_back()
        torn = {copy.target for one in [batch, *later] for copy in one.copies} if later else set()
        for sequence in [one for one in self.scheduler.running if torn & set(one.blocks)]:
            self.scheduler.preempt(sequence)

    def _each_alone(self, batch: Batch) -> list[Outcome]:
        """Computes each span alone, so that only the guilty one fails; leaves out those whose time has gone by."""
        outcomes: list[Outcome] = []
        for span in batch.spans:
            if span.is_next:
                copies = [copy for copy in batch.copies if copy.target in span.sequence.blocks]
                outcomes += self._alone(Batch([replace(span, known=True)], copies))
        return outcomes

    def _alone(self, batch: Batch) -> list[Outcome]:
        (span,) = batch.spans
        try:
            outcomes = paired(batch.spans, self.runner.launch(batch).wait())
        except Exception as error:
            raise_if_lost(error)
            outcomes = [(span, error)]
        span.launch()
        return outcomes

    def _finish(self, outcomes: list[Outcome], launched_at: float) -> None:
        """Commits what a step brought and tells of it."""
        now = time.monotonic()
        self.step_seconds, self._collected_at = now - max(launched_at, self._collected_at), now
        reports = [*self._commit(outcomes, now), *self._expire(now)]
        self.deliver(News(reports, self._held(), self._step_report(outcomes)))

    def _commit(self, outcomes: list[Outcome], now: float) -> list[Report]:
        """Moves the sequences on and retires those that end. What comes for one that has ended is dropped."""
        reports = []
        for span, result in outcomes:
            span.land()
            sequence = span.sequence
            if sequence.number not in self.sequences:
                continue
            if isinstance(result, Exception):
                unforeseen = None if isinstance(result, FloatingPointError) else result
                log.error("request %s failed: %s", sequence.request.id, result, exc_info=unforeseen)
                reports.append(self._retire(sequence, RequestFailed("computing the answer failed")))
            elif result is not None:
                sequence.append(result.id, now)
                reports.append(self._advance(sequence, result, now))
        return reports

    def _advance(self, sequence: Sequence, token: Token, now: float) -> Report:
        deadline = sequence.request.deadline
        time_is_up = deadline is not None and now + self.step_seconds >= deadline
        reason = sequence.finish_reason(self.scheduler.limits.context_length, time_is_up)
        if reason is not None:
            self._retire(sequence)
        output = TokenOutput((token,), sequence.timing, reason, sequence.num_cached)
        return Report(sequence.number, output, ended=reason is not None)

    def _step_report(self, outcomes: list[Outcome]) -> StepReport:
        before, self._num_preemptions = self._num_preemptions, self.scheduler.num_preemptions
        return StepReport(
            seconds=self.step_seconds,
            batch_size=len(outcomes),
            num_prompt_tokens=sum(span.count for span, _ in outcomes if span.start < span.sequence.num_prompt),
            num_new_tokens=sum(isinstance(result, Token) for _, result in outcomes),
            num_preemptions=self._num_preemptions - before,
        )

    def _held(self) -> Held:
        blocks, block_tokens = self.scheduler.holdings.blocks, self.scheduler.limits.block_tokens
        return Held(
            num_running=len(self.scheduler.running),
            num_used_tokens=blocks.num_used * block_tokens,
            num_kept_tokens=blocks.num_idle * block_tokens,
        )

    def _expire(self, now: float) -> list[Report]:
        """Ends requests whose time is over: before their first token, or while they wait amid their answers."""
        expired = map(self.sequences.get, self.deadlines.take_passed(now))
        return [self._end_late(sequence) for sequence in expired if sequence is not None]

    def _end_late(self, sequence: Sequence) -> Report:
        if not sequence.num_generated:
            return self._retire(sequence, DeadlineTooShort("the time was over before the first token"))
        self._retire(sequence)
        output = TokenOutput((), sequence.timing, FinishReason.TIME_LIMIT, sequence.num_cached)
        return Report(sequence.number, output)

    def _retire(self, sequence: Sequence, error: IndexGrpcError | None = None) -> Report:
        """Takes the sequence out and frees all it holds."""
        del self.sequences[sequence.number]
        self.scheduler.remove(sequence, keep=error is None)
        return Report(sequence.number, error=error)


def _wait_in_vain(launched: Launched) -> None:
    """Waits for a step that builds upon one that failed."""
    try:
        launched.wait()
    except Exception as error:
        raise_if_lost(error)


def _warn(batch: Batch, error: Exception) -> None:
    raise_if_lost(error)
    if len(batch.spans) > 1:
        log.warning("a batch of %d sequences failed (%r); trying each alone", len(batch.spans), error)
