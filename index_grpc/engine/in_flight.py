"""Launches and collects steps; if one fails, computes each of its sequences again, alone."""

import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from index_grpc.datatypes import Token
from index_grpc.engine.scheduler import Scheduler
from index_grpc.engine.sequence import Batch, Span
from index_grpc.errors import DeviceLost

SpanOutcome = tuple[Span, Token | Exception | None]
"""A span and its outcome: a token, None if it does not sample, or the error with which it failed."""

log = logging.getLogger(__name__)


class Launched(Protocol):
    """A step that the device was asked to compute."""

    def wait(self) -> list[Token | Exception]:
        """Waits for a token or an error for each span that samples, in the batch's order. Raises if the step failed."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A step that the launch itself has computed."""

    tokens: list[Token]

    def wait(self) -> list[Token | Exception]:
        """See Launched."""
        return list(self.tokens)


class Runner(Protocol):
    """What the loop needs from a device. Steps are computed in the order in which they are launched."""

    rows_independent: bool
    """Whether a sequence gets the same tokens in any batch. If not, the loop computes one sequence at a time."""
    run_ahead: int
    """How many steps may be in flight when another is launched; 0 if a launch computes at once."""

    def launch(self, batch: Batch) -> Launched:
        """Begins to compute the batch: first the copies, then the spans; draws a token for each span that samples.

        After a failure it may be called again with the same spans. Raises DeviceLost if the device can compute nothing
        any more.
        """


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """A launched step that is not collected yet."""

    batch: Batch
    launched: Launched
    launched_at: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """The outcomes of a step's spans."""

    outcomes: list[SpanOutcome]
    launched_at: float


class StepsInFlight:
    """A runner's steps in flight, in the order in which they were launched."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler, self._runner = scheduler, runner
        self._steps: deque[StepInFlight] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    def launch(self, batch: Batch) -> bool:
        """Launches a step. Returns False if that fails, or if the runner can compute only one sequence at a time."""
        launched_at = time.monotonic()
        launched = self._launched(batch) if self._runner.rows_independent else None
        if launched is None:
            return False
        for span in batch.spans:
            span.launch()
        self._steps.append(StepInFlight(batch, launched, launched_at))
        return True

    def each_alone(self, batch: Batch) -> StepResult:
        """Computes each span alone, so that only those that cause a failure fail. No step may be in flight."""
        started = time.monotonic()
        return StepResult(self._outcomes_alone(batch), started)

    def collect(self) -> StepResult:
        """Waits for the oldest step and returns its result."""
        step = self._steps.popleft()
        try:
            outcomes = _paired(step.batch.spans, step.launched.wait())
        except DeviceLost:
            raise
        except Exception as error:
            _warn(step.batch, error)
            self._take_back(step.batch)
            outcomes = self._outcomes_alone(step.batch)
        return StepResult(outcomes, step.launched_at)

    def _launched(self, batch: Batch) -> Launched | None:
        """Launches a batch. Returns None if that failed."""
        try:
            return self._runner.launch(batch)
        except DeviceLost:
            raise
        except Exception as error:
            _warn(batch, error)
            return None

    def _take_back(self, batch: Batch) -> None:
        """Resets sequences to before this batch and the later ones, which depend on it, were launched.

        The source of a copy may have changed since, so sequences that began with a copy are preempted.
        """
        later = [step.batch for step in self._steps]
        while self._steps:
            _wait_in_vain(self._steps.popleft().launched)
        for one in reversed([batch, *later]):
            for span in one.spans:
                span.take_back()
        torn = {copy.target for one in [batch, *later] for copy in one.copies} if later else set()
        for sequence in [one for one in self._scheduler.running if torn & set(one.blocks)]:
            self._scheduler.preempt(sequence)

    def _outcomes_alone(self, batch: Batch) -> list[SpanOutcome]:
        """Computes each span alone, except those that do not come next in their sequence any more."""
        outcomes: list[SpanOutcome] = []
        for span in batch.spans:
            if span.is_next:
                copies = [copy for copy in batch.copies if copy.target in span.sequence.blocks]
                outcomes += self._alone(Batch([replace(span, known=True)], copies))
        return outcomes

    def _alone(self, batch: Batch) -> list[SpanOutcome]:
        (span,) = batch.spans
        try:
            outcomes = _paired(batch.spans, self._runner.launch(batch).wait())
        except DeviceLost:
            raise
        except Exception as error:
            outcomes = [(span, error)]
        span.launch()
        return outcomes


def _paired(spans: list[Span], results: list[Token | Exception]) -> list[SpanOutcome]:
    """Pairs each span with its result. `results` belong, in order, to the spans that sample."""
    by_sequence = dict(zip([span.sequence for span in spans if span.samples], results, strict=True))
    return [(span, by_sequence.get(span.sequence)) for span in spans]


def _wait_in_vain(launched: Launched) -> None:
    """Waits for a step that depends on a failed one, and drops its result."""
    try:
        launched.wait()
    except DeviceLost:
        raise
    except Exception:
        log.debug("a step after the one that failed has failed too", exc_info=True)


def _warn(batch: Batch, error: Exception) -> None:
    if len(batch.spans) > 1:
        log.warning("a batch of %d sequences failed (%r); trying each alone", len(batch.spans), error)
