"""The engine's thread: schedule → run → commit → deliver, until told to stop."""

import heapq
import logging
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from index_grpc.contract import Token, TokenOutput
from index_grpc.engine.orders import Cancel, Held, News, Order, Report, StepReport, Stop, Submit
from index_grpc.engine.scheduler import Scheduler
from index_grpc.engine.sequence import Batch, Sequence
from index_grpc.errors import DeadlineTooShort, IndexGrpcError, RequestFailed

SPARE_DEADLINES = 1000
"""So many of requests that have ended may be remembered before they are looked for."""

log = logging.getLogger(__name__)


Deliver = Callable[[News], None]


class Runner(Protocol):
    """What the loop needs of a device."""

    rows_independent: bool
    """Whether a sequence's tokens are the same in any batch. If not, the loop computes one sequence at a time."""

    def run(self, batch: Batch) -> list[Token]:
        """Computes the batch and draws a token for each span that samples, in the batch's order.

        All or nothing: after a failure it may be called again with the same spans.
        """

    def release(self, row: int) -> None:
        """Lets a row of the cache go, if it has been begun."""

    def held_rows(self) -> set[int]:
        """Numbers of the rows that the cache holds."""


class Loop:
    """Owns the scheduler and the runner; everything else talks to it through the inbox."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, deliver: Deliver, inbox: "SimpleQueue[Order] | None" = None
    ) -> None:
        self.scheduler, self.runner, self.deliver = scheduler, runner, deliver
        self.inbox: SimpleQueue[Order] = inbox or SimpleQueue()
        self.sequences: dict[int, Sequence] = {}
        self.step_seconds = 0.0
        self._deadlines: list[tuple[float, int]] = []
        """A heap of deadlines with the numbers of their sequences, some of which have ended since."""

    def run(self) -> None:
        """Works until stopped. What is still open then is the door's to end."""
        while self._receive():
            self.step()

    def follow(self, order: Submit | Cancel) -> None:
        """Takes a request in, or lets one go."""
        if isinstance(order, Submit):
            self.sequences[order.number] = self.scheduler.add(order.number, order.request)
            if order.request.deadline is not None:
                self._note_deadline(order.request.deadline, order.number)
        elif order.number in self.sequences:
            report = self._retire(self.sequences[order.number])
            self.deliver(News([report], self._held()))

    def step(self) -> None:
        """One turn."""
        started = time.monotonic()
        batch = self.scheduler.schedule(started)
        results = self._compute(batch)
        self._release_rows()
        self.step_seconds = time.monotonic() - started
        reports = [*self._commit(batch, results), *self._expire()]
        self.deliver(News(reports, self._held(), self._step_report(batch, results)))

    def _receive(self) -> bool:
        """Follows the orders in the inbox, waiting for one if there is nothing to compute. False when told to stop."""
        while not self.sequences or not self.inbox.empty():
            if not self.sequences:
                self.check_books()
            order = self.inbox.get()
            if isinstance(order, Stop):
                return False
            self.follow(order)
        return True

    def _compute(self, batch: Batch) -> dict[Sequence, Token | Exception]:
        """Tokens by sequence. If the batch fails, each span is tried alone, so that only the guilty one fails."""
        if self.runner.rows_independent and len(batch) > 1:
            try:
                return _paired(batch, self.runner.run(batch))
            except Exception as error:
                log.warning("a batch of %d sequences failed (%r); trying each alone", len(batch), error)
        results: dict[Sequence, Token | Exception] = {}
        for span in batch:
            try:
                results.update(_paired([span], self.runner.run([span])))
            except Exception as error:
                unforeseen = not isinstance(error, FloatingPointError)
                log.error("request %s failed: %s", span.sequence.request.id, error, exc_info=unforeseen)
                results[span.sequence] = error
        return results

    def _commit(self, batch: Batch, results: dict[Sequence, Token | Exception]) -> list[Report]:
        """Moves the batch's sequences on and retires those that end."""
        now = time.monotonic()
        reports = []
        for span in batch:
            sequence, result = span.sequence, results.get(span.sequence)
            if isinstance(result, Exception):
                reports.append(self._retire(sequence, RequestFailed("computing the answer failed")))
                continue
            sequence.num_computed += span.count
            if result is not None:
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

    def _step_report(self, batch: Batch, results: dict[Sequence, Token | Exception]) -> StepReport:
        return StepReport(
            seconds=self.step_seconds,
            batch_size=len(batch),
            num_prompt_tokens=sum(span.count for span in batch if span.start < span.sequence.num_prompt),
            num_new_tokens=sum(isinstance(result, Token) for result in results.values()),
        )

    def _held(self) -> Held:
        scheduler = self.scheduler
        return Held(
            num_running=len(scheduler.running),
            num_cache_tokens=scheduler.num_reserved,
            num_kept_tokens=scheduler.kept.num_reserved,
        )

    def _note_deadline(self, deadline: float, number: int) -> None:
        if len(self._deadlines) > 2 * len(self.sequences) + SPARE_DEADLINES:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self.sequences]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline, number))

    def _expire(self) -> list[Report]:
        """Ends requests whose time is over before their first token."""
        now, reports = time.monotonic(), []
        while self._deadlines and self._deadlines[0][0] <= now:
            sequence = self.sequences.get(heapq.heappop(self._deadlines)[1])
            if sequence is not None and not sequence.num_generated:
                reports.append(self._retire(sequence, DeadlineTooShort("the time was over before the first token")))
        return reports

    def _retire(self, sequence: Sequence, error: IndexGrpcError | None = None) -> Report:
        """Takes the sequence out and frees all it holds."""
        del self.sequences[sequence.number]
        self.scheduler.remove(sequence, keep=error is None)
        return Report(sequence.number, error=error)

    def check_books(self) -> None:
        """With nothing to compute, nothing may be held but kept rows; raises if something is."""
        self._release_rows()
        self.scheduler.check_books()
        strays = self.runner.held_rows() ^ set(self.scheduler.kept.prefixes)
        if strays:
            raise RuntimeError(f"idle, and scheduler and cache do not agree on rows {sorted(strays)}")

    def _release_rows(self) -> None:
        """After a step, not before: a new sequence may copy from a row that gave way to it."""
        for row in self.scheduler.kept.take_evicted():
            self.runner.release(row)


def _paired(batch: Batch, tokens: list[Token]) -> dict[Sequence, Token | Exception]:
    sampling = [span.sequence for span in batch if span.samples]
    return dict(zip(sampling, tokens, strict=True))
