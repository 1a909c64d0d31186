"""The engine's loop: schedule → launch → collect → commit → deliver, until told to stop."""

import logging
import time
from collections.abc import Callable
from queue import SimpleQueue

from index_grpc.datatypes import FinishReason, Token, TokenOutput
from index_grpc.engine.deadlines import Deadlines, too_late
from index_grpc.engine.in_flight import Runner, SpanOutcome, StepResult, StepsInFlight
from index_grpc.engine.orders import Cancel, EngineUpdate, Occupancy, Order, Report, StepReport, Stop, Submit
from index_grpc.engine.scheduler import Scheduler
from index_grpc.engine.sequence import Batch, Sequence
from index_grpc.errors import IndexGrpcError, RequestFailed

log = logging.getLogger(__name__)


Deliver = Callable[[EngineUpdate], None]


class Loop:
    """Owns the scheduler and the runner; other threads and processes reach it only through the inbox."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, deliver: Deliver, inbox: "SimpleQueue[Order] | None" = None
    ) -> None:
        self.scheduler, self.runner, self.deliver = scheduler, runner, deliver
        self.inbox: SimpleQueue[Order] = inbox or SimpleQueue()
        self.sequences: dict[int, Sequence] = {}
        self.in_flight, self.deadlines = StepsInFlight(scheduler, runner), Deadlines()
        self.step_seconds = 0.0
        self._collected_at, self._num_preemptions = 0.0, 0

    @property
    def is_busy(self) -> bool:
        """Whether any sequence is open or any step in flight."""
        return bool(self.sequences or self.in_flight)

    def run(self) -> None:
        """Runs steps until told to stop. Ending the requests that are open then is left to `Engine`."""
        while self._receive():
            self.step()

    def apply(self, order: Submit | Cancel) -> None:
        """Adds or cancels a request."""
        if isinstance(order, Submit):
            self.sequences[order.number] = self.scheduler.add(order.number, order.request)
            if order.request.deadline is not None:
                self.deadlines.note(order.request.deadline.instant, order.number, still_open=self.sequences)
        elif order.number in self.sequences:
            report = self._retire(self.sequences[order.number])
            self.deliver(EngineUpdate([report], self._occupancy()))

    def step(self) -> None:
        """Launches a step and, if more than `run_ahead` are in flight or none was launched, collects the oldest."""
        batch = self.scheduler.schedule(time.monotonic())
        if batch.spans:
            if not self.in_flight.launch(batch):
                self._compute_each_alone(batch)
        elif not self.in_flight:
            raise RuntimeError(f"{len(self.sequences)} sequences are open, yet none of them can be computed")
        if self.in_flight and (not batch.spans or len(self.in_flight) > self.runner.run_ahead):
            self._finish(self.in_flight.collect())

    def check_for_leaks(self) -> None:
        """Checks, when nothing runs, that only kept prefixes hold blocks. Raises RuntimeError if something leaked."""
        self.scheduler.check_for_leaks()

    def _receive(self) -> bool:
        """Applies the inbox's orders; waits for one if there is nothing to compute. Returns False if told to stop."""
        while not self.is_busy or not self.inbox.empty():
            if not self.is_busy:
                self.check_for_leaks()
            order = self.inbox.get()
            if isinstance(order, Stop):
                return False
            self.apply(order)
        return True

    def _compute_each_alone(self, batch: Batch) -> None:
        """Computes a batch that could not be launched, after committing all steps launched before it."""
        while self.in_flight:
            self._finish(self.in_flight.collect())
        self._finish(self.in_flight.each_alone(batch))

    def _finish(self, result: StepResult) -> None:
        """Commits a step's result and delivers an update."""
        now = time.monotonic()
        self.step_seconds, self._collected_at = now - max(result.launched_at, self._collected_at), now
        reports = [*self._commit(result.outcomes, now), *self._expire(now)]
        self.deliver(EngineUpdate(reports, self._occupancy(), self._step_report(result.outcomes)))

    def _commit(self, outcomes: list[SpanOutcome], now: float) -> list[Report]:
        """Adds the tokens to their sequences and retires those that end. Drops results of sequences ended before."""
        reports = []
        for span, result in outcomes:
            span.complete()
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
        time_is_up = deadline is not None and now + self.step_seconds >= deadline.instant
        reason = sequence.finish_reason(self.scheduler.limits.context_length, time_is_up)
        if reason is not None:
            self._retire(sequence)
        output = TokenOutput((token,), sequence.timing, reason, sequence.num_cached)
        return Report(sequence.number, output, ended=reason is not None)

    def _step_report(self, outcomes: list[SpanOutcome]) -> StepReport:
        before, self._num_preemptions = self._num_preemptions, self.scheduler.num_preemptions
        return StepReport(
            seconds=self.step_seconds,
            batch_size=len(outcomes),
            num_prompt_tokens=sum(span.num_prompt for span, _ in outcomes),
            num_new_tokens=sum(isinstance(result, Token) for _, result in outcomes),
            num_preemptions=self._num_preemptions - before,
        )

    def _occupancy(self) -> Occupancy:
        blocks, block_tokens = self.scheduler.allocator.blocks, self.scheduler.limits.block_tokens
        return Occupancy(
            num_running=len(self.scheduler.running),
            num_used_tokens=blocks.num_used * block_tokens,
            num_kept_tokens=blocks.num_idle * block_tokens,
            num_places=self.scheduler.num_places,
        )

    def _expire(self, now: float) -> list[Report]:
        """Ends requests whose deadlines have passed: with an error if they have no token yet, else with TIME_LIMIT."""
        expired = map(self.sequences.get, self.deadlines.take_passed(now))
        return [self._end_late(sequence) for sequence in expired if sequence is not None]

    def _end_late(self, sequence: Sequence) -> Report:
        deadline = sequence.request.deadline
        if deadline is not None and not sequence.num_generated:
            return self._retire(sequence, too_late(deadline))
        self._retire(sequence)
        output = TokenOutput((), sequence.timing, FinishReason.TIME_LIMIT, sequence.num_cached)
        return Report(sequence.number, output)

    def _retire(self, sequence: Sequence, error: IndexGrpcError | None = None) -> Report:
        """Removes the sequence and frees its slot and blocks."""
        del self.sequences[sequence.number]
        self.scheduler.remove(sequence, keep=error is None)
        return Report(sequence.number, error=error)
