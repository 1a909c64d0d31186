"""Scheduling by property: whatever comes and goes, in any order, each request gets its own answer and nothing leaks."""

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_grpc.contract import FinishReason, SamplingParams, TokenOutput, TokenRequest
from index_grpc.engine.loop import Cancel, Loop, Report, Submit
from index_grpc.engine.scheduler import Limits, Scheduler
from index_grpc.errors import DeadlineTooShort, RequestFailed
from tests.engine.fake_runner import POISON, VOCAB, FakeRunner, answer

LIMITS = Limits(
    context_length=40, max_sequences=3, max_waiting=100, max_cache_tokens=70, chunk_tokens=8, grain_tokens=8
)
STOP_IDS = frozenset({0, 7})


@dataclass(frozen=True)
class Arrival:
    """A request, after how many steps it comes, and after how many more its caller leaves."""

    prompt: list[int]
    max_tokens: int
    after_steps: int
    leaves_after: int | None


prompts = st.lists(st.integers(5, VOCAB - 1) | st.just(POISON), min_size=1, max_size=39)
alike = st.tuples(st.integers(0, 30), st.lists(st.integers(5, 7), min_size=1, max_size=9)).map(
    lambda beginning_and_rest: [9] * beginning_and_rest[0] + beginning_and_rest[1]
)
"""Prompts that often begin the same."""

arrivals = st.lists(
    st.builds(
        Arrival,
        prompt=prompts | alike,
        max_tokens=st.integers(1, 60),
        after_steps=st.integers(0, 6),
        leaves_after=st.none() | st.integers(0, 6),
    ),
    min_size=1,
    max_size=12,
)


class Desk:
    """A loop without its thread: what the door would see."""

    def __init__(self, runner: FakeRunner, limits: Limits = LIMITS, stop_ids: frozenset[int] = STOP_IDS) -> None:
        self.stop_ids = stop_ids
        self.reports: dict[int, list[Report]] = {}
        self.loop = Loop(Scheduler(limits), runner, self._receive)

    def _receive(self, reports: list[Report]) -> None:
        for report in reports:
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


@pytest.mark.parametrize("grain_tokens", [1, 8])
@pytest.mark.parametrize("rows_independent", [True, False])
@given(arrivals=arrivals, prefix_reuse=st.booleans())
def test_every_interleaving(
    rows_independent: bool, grain_tokens: int, arrivals: list[Arrival], prefix_reuse: bool
) -> None:
    limits = dataclasses.replace(LIMITS, prefix_reuse=prefix_reuse, grain_tokens=grain_tokens)
    desk = Desk(FakeRunner(LIMITS.chunk_tokens, rows_independent), limits)
    leaving: dict[int, int] = {}
    for number, arrival in enumerate(arrivals):
        for _ in range(arrival.after_steps):
            desk.turn()
            leaving = {left: steps - 1 for left, steps in leaving.items()}
            for left in [left for left, steps in leaving.items() if steps <= 0]:
                desk.cancel(left)
                del leaving[left]
        desk.submit(number, arrival.prompt, arrival.max_tokens)
        if arrival.leaves_after is not None:
            leaving[number] = arrival.leaves_after
    while desk.loop.sequences:
        desk.turn()
    desk.loop.check_books()
    for number, arrival in enumerate(arrivals):
        check(desk, number, arrival)


def check(desk: Desk, number: int, arrival: Arrival) -> None:
    reports = desk.reports[number]
    assert [report.ended for report in reports].count(True) == 1
    assert reports[-1].ended
    room = LIMITS.context_length - len(arrival.prompt)
    whole = answer(arrival.prompt, min(arrival.max_tokens, room), STOP_IDS)
    if POISON in arrival.prompt:
        assert arrival.leaves_after is not None or isinstance(reports[-1].error, RequestFailed)
        return
    output = reports[-1].output
    if output is None:  # left before the end
        assert arrival.leaves_after is not None
        assert desk.tokens(number) == whole[: len(desk.tokens(number))]
        return
    assert desk.tokens(number) == whole
    assert output.reason == expected_reason(whole, arrival, room)


def expected_reason(whole: list[int], arrival: Arrival, room: int) -> FinishReason:
    if whole[-1] in STOP_IDS:
        return FinishReason.STOP
    return FinishReason.MAX_TOKENS if arrival.max_tokens <= room else FinishReason.CONTEXT_LENGTH


def test_first_come_first_served() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    for number in range(8):
        desk.submit(number, [5, 6, 8], max_tokens=3)
    order = []
    while desk.loop.sequences:
        desk.turn()
        order += [number for number in desk.reports if number not in order]
    assert order == list(range(8))


def test_a_conversation_continues_in_its_row() -> None:
    """The next turn computes only what is new; a whole chunk is 8 tokens."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    first = [11] * 17
    desk.submit(0, first, max_tokens=3)
    desk.finish()
    desk.submit(1, [*first, *desk.tokens(0), 12], max_tokens=1)
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert len(desk.loop.runner.held_rows()) == 1


ANYWHERE = dataclasses.replace(LIMITS, grain_tokens=1)
"""Where prompts may be cut, and prefixes shared, at any token."""


def test_an_answer_is_reused_where_cuts_change_nothing() -> None:
    """All that was computed is there: the prompt and the answer but for its last token."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    desk.submit(0, [11] * 17, max_tokens=3)
    desk.finish()
    desk.submit(1, [*([11] * 17), *desk.tokens(0), 12], max_tokens=1)
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 19]
    assert len(desk.loop.runner.held_rows()) == 1


def test_an_answer_told_otherwise_gives_way_but_a_prompt_does_not() -> None:
    """The history may hold another end of the answer than was computed; the row goes on from where they part."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    desk.submit(0, [11] * 17, max_tokens=8)
    desk.finish()
    other_end = [*([11] * 17), *desk.tokens(0)[:4], VOCAB + 1, 12]
    desk.submit(1, other_end, max_tokens=1)
    desk.finish()
    assert desk.last_output(1).cached_prompt_tokens == 21
    assert len(desk.loop.runner.held_rows()) == 1
    desk.submit(2, [*([11] * 10), 12], max_tokens=1)
    desk.finish()
    assert desk.last_output(2).cached_prompt_tokens == 10
    assert len(desk.loop.runner.held_rows()) == 2


def test_a_beginning_too_short_is_not_shared() -> None:
    limits = dataclasses.replace(ANYWHERE, least_shared_tokens=12)
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), limits, frozenset())
    for number, num_same in enumerate((17, 11, 12)):
        desk.submit(number, [*([11] * num_same), 12 + number], max_tokens=1)
        desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in range(3)] == [0, 0, 12]


def test_a_chunk_takes_all_of_a_steps_prompt_tokens() -> None:
    """Where prompts may be cut anywhere, what one prompt leaves of a step goes to the next in line."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(ANYWHERE, prefix_reuse=False), frozenset())
    for number in range(3):
        desk.submit(number, [5 + number] * 5, max_tokens=1)
    counts = [[span.count for span in desk.loop.scheduler.schedule(0.0)]]
    assert counts == [[5, 3]]


def test_a_busy_row_is_copied() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, max_cache_tokens=120), frozenset())
    for number in range(2):
        desk.submit(number, [11] * 17, max_tokens=5)
        for _ in range(3):
            desk.turn()
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert desk.tokens(0) == desk.tokens(1)


def test_kept_rows_give_way_oldest_first() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, max_cache_tokens=40), frozenset())
    for number, token_id in enumerate((11, 12, 13, 12, 11)):
        desk.submit(number, [token_id] * 17, max_tokens=3)
        desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in range(5)] == [0, 0, 0, 16, 0]


def test_without_reuse_nothing_is_kept() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, prefix_reuse=False), frozenset())
    for number in range(2):
        desk.submit(number, [11] * 17, max_tokens=3)
        desk.finish()
    assert desk.last_output(1).cached_prompt_tokens == 0
    assert not desk.loop.runner.held_rows()


def test_a_long_prompt_does_not_stall_running_sequences() -> None:
    """While a prompt of many chunks is computed, every step still decodes whoever runs."""
    limits = Limits(
        context_length=400, max_sequences=3, max_waiting=9, max_cache_tokens=1200, chunk_tokens=8, grain_tokens=8
    )
    desk = Desk(FakeRunner(limits.chunk_tokens), limits, stop_ids=frozenset())
    desk.submit(0, [9], max_tokens=100)
    desk.turn()
    desk.submit(1, [11] * 80, max_tokens=1)
    for _ in range(10):
        before = len(desk.tokens(0))
        desk.turn()
        assert len(desk.tokens(0)) == before + 1
    assert desk.reports[1][-1].ended


def test_the_cache_budget_holds_requests_back() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens))
    for number in range(3):
        desk.submit(number, [5] * 20, max_tokens=20)
    desk.turn()
    assert len(desk.loop.scheduler.running) == 1  # 40 of 70 positions are promised; another 40 do not fit
    while desk.loop.sequences:
        desk.turn()
    assert all(desk.reports[number][-1].output for number in range(3))


def test_time_over_before_the_first_token() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens))
    desk.submit(0, [5] * 20, max_tokens=5, deadline=0.001)
    desk.turn()
    assert isinstance(desk.reports[0][-1].error, DeadlineTooShort)
    assert not desk.loop.sequences


def test_time_over_after_some_tokens_is_a_finish() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens))
    desk.submit(0, [9], max_tokens=30, deadline=0.001)
    desk.turn()
    assert desk.reports[0][-1].output is not None
    assert desk.reports[0][-1].output.reason is FinishReason.TIME_LIMIT
    assert len(desk.tokens(0)) == 1


def test_a_leak_is_noticed() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens))
    desk.loop.scheduler.free_slots.pop()
    with pytest.raises(RuntimeError, match="1 slots"):
        desk.loop.check_books()
