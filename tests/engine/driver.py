"""A loop without its thread, for tests of scheduling."""

import dataclasses
from collections import Counter

from index_grpc.datatypes import Deadline, SamplingParams, TokenOutput, TokenRequest
from index_grpc.engine.limits import Limits
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import Cancel, EngineUpdate, Occupancy, Report, StepReport, Submit
from index_grpc.engine.scheduler import Scheduler
from tests.engine.fake_runner import FakeRunner

LIMITS = Limits(
    context_length=40,
    max_sequences=3,
    max_waiting=100,
    num_blocks=9,
    block_tokens=8,
    chunk_tokens=8,
    alignment_tokens=8,
)
ANYWHERE = dataclasses.replace(LIMITS, alignment_tokens=1, answers_like_prompts=True)
"""Limits with which prompts may be cut, and prefixes shared, at any token."""
STOP_IDS = frozenset({0, 7})


class LoopDriver:
    """A loop without its thread, with all reports that it has delivered."""

    def __init__(
        self,
        runner: FakeRunner,
        limits: Limits = LIMITS,
        stop_ids: frozenset[int] = STOP_IDS,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.stop_ids = stop_ids
        self.reports: dict[int, list[Report]] = {}
        self.steps: list[StepReport] = []
        self.occupancy = Occupancy()
        self.loop = Loop(scheduler or Scheduler(limits), runner, self._receive)
        runner.block_tokens, runner.answers_like_prompts = limits.block_tokens, limits.answers_like_prompts

    def _receive(self, update: EngineUpdate) -> None:
        for report in update.reports:
            self.reports.setdefault(report.number, []).append(report)
        self.occupancy = update.occupancy
        if update.step is not None:
            self.steps.append(update.step)

    def submit(self, number: int, prompt: list[int], max_tokens: int, deadline_at: float | None = None) -> None:
        deadline = None if deadline_at is None else Deadline(deadline_at, deadline_at, "deadline")
        request = TokenRequest("x", prompt, SamplingParams(), max_tokens, self.stop_ids, deadline=deadline)
        self.loop.apply(Submit(number, request))

    def step_if_busy(self) -> None:
        """Makes one step if there is anything to do."""
        if self.loop.is_busy:
            self.loop.step()
            self.check_blocks()

    def finish(self) -> None:
        """Makes steps until nothing is left to do."""
        while self.loop.is_busy:
            self.step_if_busy()
        self.loop.check_for_leaks()

    def check_blocks(self) -> None:
        """Checks the holders of each block, and that a block to which a sequence still writes has no other holder."""
        scheduler, blocks = self.loop.scheduler, self.loop.scheduler.allocator.blocks
        scheduler.allocator.let_sources_go()
        kept = [prefix.blocks for prefix in scheduler.allocator.kept]
        holders = Counter(block for held in [*kept, *(one.blocks for one in scheduler.running)] for block in held)
        used = {block for sequence in scheduler.running for block in sequence.blocks}
        assert all(blocks.num_holders(block) == count for block, count in holders.items())
        assert (blocks.num_used, blocks.num_used + blocks.num_idle) == (len(used), len(holders))
        assert blocks.num_free + len(holders) == blocks.num_blocks
        for sequence in scheduler.running:
            own = sequence.blocks[sequence.num_computed // scheduler.limits.block_tokens :]
            assert all(blocks.num_holders(block) == 1 for block in own)
        assert list(scheduler.waiting) == sorted(scheduler.waiting)
        for sequence in scheduler.waiting.values():
            assert (sequence.num_computed, sequence.num_confirmed, sequence.blocks) == (0, 0, [])
        if scheduler.waiting and not self.loop.runner.run_ahead:  # otherwise a failed step may have preempted others
            assert all(sequence.number < min(scheduler.waiting) for sequence in scheduler.running)

    def last_output(self, number: int) -> TokenOutput:
        output = self.reports[number][-1].output
        assert output is not None
        return output

    def tokens(self, number: int) -> list[int]:
        outputs = [report.output for report in self.reports[number] if report.output]
        return [token.id for output in outputs for token in output.tokens]

    def cancel(self, number: int) -> None:
        self.loop.apply(Cancel(number))

    @property
    def num_preemptions(self) -> int:
        return self.loop.scheduler.num_preemptions

    @property
    def num_kept(self) -> int:
        """Number of kept prefixes."""
        return len(self.loop.scheduler.allocator.kept)
