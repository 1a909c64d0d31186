"""A loop without its thread, for tests of scheduling."""

import dataclasses

from index_grpc.contract import SamplingParams, TokenOutput, TokenRequest
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import Cancel, News, Report, Submit
from index_grpc.engine.scheduler import Limits, Scheduler
from tests.engine.fake_runner import FakeRunner

LIMITS = Limits(
    context_length=40, max_sequences=3, max_waiting=100, max_cache_tokens=70, chunk_tokens=8, grain_tokens=8
)
ANYWHERE = dataclasses.replace(LIMITS, grain_tokens=1)
"""Where prompts may be cut, and prefixes shared, at any token."""
STOP_IDS = frozenset({0, 7})


class Desk:
    """A loop without its thread: what the door would see."""

    def __init__(self, runner: FakeRunner, limits: Limits = LIMITS, stop_ids: frozenset[int] = STOP_IDS) -> None:
        self.stop_ids = stop_ids
        self.reports: dict[int, list[Report]] = {}
        self.loop = Loop(Scheduler(limits), runner, self._receive)

    def _receive(self, news: News) -> None:
        for report in news.reports:
            self.reports.setdefault(report.number, []).append(report)

    def submit(self, number: int, prompt: list[int], max_tokens: int, deadline: float | None = None) -> None:
        request = TokenRequest("x", prompt, SamplingParams(), max_tokens, self.stop_ids, deadline=deadline)
        self.loop.follow(Submit(number, request))

    def turn(self) -> None:
        """One step, if there is anything to do."""
        if self.loop.sequences:
            self.loop.step()

    def finish(self) -> None:
        """Steps until nothing is left to do."""
        while self.loop.sequences:
            self.turn()
        self.loop.check_books()

    def last_output(self, number: int) -> TokenOutput:
        output = self.reports[number][-1].output
        assert output is not None
        return output

    def tokens(self, number: int) -> list[int]:
        outputs = [report.output for report in self.reports[number] if report.output]
        return [token.id for output in outputs for token in output.tokens]

    def cancel(self, number: int) -> None:
        self.loop.follow(Cancel(number))
