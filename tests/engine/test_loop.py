"""Properties of scheduling: however requests come and leave, each gets its own answer and nothing leaks."""

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_grpc.datatypes import Deadline, FinishReason
from index_grpc.engine.deadlines import too_late
from index_grpc.errors import DeadlineTooShort, RequestFailed
from tests.engine.driver import ANYWHERE, LIMITS, STOP_IDS, LoopDriver
from tests.engine.fake_runner import POISONS, VOCAB, FakeRunner, answer


@dataclass(frozen=True)
class Arrival:
    """A request: after how many steps it comes, and after how many more steps its caller leaves."""

    prompt: list[int]
    max_tokens: int
    after_steps: int
    leaves_after: int | None


poisons = st.sampled_from(sorted(POISONS))
prompts = st.lists(st.integers(5, VOCAB - 1) | poisons, min_size=1, max_size=39)
alike = st.tuples(st.integers(0, 30), st.lists(st.integers(5, 7) | poisons, min_size=1, max_size=9)).map(
    lambda beginning_and_rest: [9] * beginning_and_rest[0] + beginning_and_rest[1]
)
"""Prompts that often have a common beginning."""

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


@pytest.mark.parametrize("run_ahead", [0, 1, 3])
@pytest.mark.parametrize("alignment_tokens", [1, 8])
@pytest.mark.parametrize("rows_independent", [True, False])
@settings(deadline=None)
@given(
    arrivals=arrivals,
    prefix_reuse=st.booleans(),
    answers_like_prompts=st.booleans(),
    block_tokens=st.sampled_from([1, 3, 8, 40]),
    num_contexts=st.sampled_from([1, 1.3, 2, 5]),
)
def test_each_request_gets_its_own_answer_in_any_interleaving(
    rows_independent: bool,
    alignment_tokens: int,
    run_ahead: int,
    arrivals: list[Arrival],
    prefix_reuse: bool,
    answers_like_prompts: bool,
    block_tokens: int,
    num_contexts: float,
) -> None:
    limits = dataclasses.replace(
        LIMITS,
        prefix_reuse=prefix_reuse,
        alignment_tokens=alignment_tokens,
        answers_like_prompts=answers_like_prompts,
        block_tokens=block_tokens,
        num_blocks=int(-(-LIMITS.context_length // block_tokens) * num_contexts),
    )
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens, rows_independent, run_ahead), limits)
    leaving: dict[int, int] = {}
    for number, arrival in enumerate(arrivals):
        for _ in range(arrival.after_steps):
            driver.step_if_busy()
            leaving = {left: steps - 1 for left, steps in leaving.items()}
            for left in [left for left, steps in leaving.items() if steps <= 0]:
                driver.cancel(left)
                del leaving[left]
        driver.submit(number, arrival.prompt, arrival.max_tokens)
        if arrival.leaves_after is not None:
            leaving[number] = arrival.leaves_after
    driver.finish()
    for number, arrival in enumerate(arrivals):
        check(driver, number, arrival)


def check(driver: LoopDriver, number: int, arrival: Arrival) -> None:
    reports = driver.reports[number]
    assert [report.ended for report in reports].count(True) == 1
    assert reports[-1].ended
    room = LIMITS.context_length - len(arrival.prompt)
    whole = answer(arrival.prompt, min(arrival.max_tokens, room), STOP_IDS)
    if POISONS & set(arrival.prompt):
        assert arrival.leaves_after is not None or isinstance(reports[-1].error, RequestFailed)
        return
    output = reports[-1].output
    if output is None:  # its caller left before the end
        assert arrival.leaves_after is not None
        assert driver.tokens(number) == whole[: len(driver.tokens(number))]
        return
    assert driver.tokens(number) == whole
    assert output.reason == expected_reason(whole, arrival, room)


def expected_reason(whole: list[int], arrival: Arrival, room: int) -> FinishReason:
    if whole[-1] in STOP_IDS:
        return FinishReason.STOP
    return FinishReason.MAX_TOKENS if arrival.max_tokens <= room else FinishReason.CONTEXT_LENGTH


def test_first_come_first_served() -> None:
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    for number in range(8):
        driver.submit(number, [5, 6, 8], max_tokens=3)
    order = []
    while driver.loop.sequences:
        driver.step_if_busy()
        order += [number for number in driver.reports if number not in order]
    assert order == list(range(8))


def test_prompt_tokens_left_in_a_step_go_to_the_next_prompt() -> None:
    """If prompts may be cut anywhere, the tokens of a step that one prompt does not use go to the next one."""
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(ANYWHERE, prefix_reuse=False), frozenset())
    for number in range(3):
        driver.submit(number, [5 + number] * 5, max_tokens=1)
    counts = [[span.count for span in driver.loop.scheduler.schedule(0.0).spans]]
    assert counts == [[5, 3]]


def test_deadlines_of_ended_requests_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.engine.deadlines.SPARE", 5)
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens))
    for number in range(100):
        driver.submit(number, [5], max_tokens=1, deadline_at=1e9)
        driver.finish()
    assert len(driver.loop.deadlines) < 10


def test_a_long_prompt_does_not_stall_running_sequences() -> None:
    """While a prompt of many chunks is computed, every step still decodes all running sequences."""
    limits = dataclasses.replace(LIMITS, context_length=400, num_blocks=150)
    driver = LoopDriver(FakeRunner(limits.chunk_tokens), limits, stop_ids=frozenset())
    driver.submit(0, [9], max_tokens=100)
    driver.step_if_busy()
    driver.submit(1, [11] * 80, max_tokens=1)
    for _ in range(10):
        before = len(driver.tokens(0))
        driver.step_if_busy()
        assert len(driver.tokens(0)) == before + 1
    assert driver.reports[1][-1].ended


def test_a_request_waits_until_there_are_blocks_for_its_prompt() -> None:
    """Prompts of 3 blocks need one more each: two fit into 9 blocks; the third begins when one of them has ended."""
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    for number in range(3):
        driver.submit(number, [5 + number] * 20, max_tokens=4)
    most = 0
    while driver.loop.sequences:
        driver.step_if_busy()
        most = max(most, len(driver.loop.scheduler.running))
    assert most == 2
    assert driver.num_preemptions == 0
    assert all(driver.reports[number][-1].output for number in range(3))


def test_a_deadline_before_the_first_token_is_an_error() -> None:
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens))
    driver.submit(0, [5] * 20, max_tokens=5, deadline_at=0.001)
    driver.step_if_busy()
    error = driver.reports[0][-1].error
    assert isinstance(error, DeadlineTooShort)
    assert str(error) == "the call's deadline of 0.001 s passed before its first token; allow more time"
    assert not driver.loop.sequences


def test_a_deadline_that_had_passed_on_arrival_is_not_told_as_no_time() -> None:
    error = too_late(Deadline(1.0, 0.0, "deadline"))
    assert str(error) == "the call's deadline passed before the call arrived; allow more time"


def test_a_deadline_after_some_tokens_is_a_finish() -> None:
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens))
    driver.submit(0, [9], max_tokens=30, deadline_at=0.001)
    driver.step_if_busy()
    assert driver.reports[0][-1].output is not None
    assert driver.reports[0][-1].output.reason is FinishReason.TIME_LIMIT
    assert len(driver.tokens(0)) == 1


def test_a_leak_is_noticed() -> None:
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens))
    driver.loop.scheduler.free_slots.pop()
    with pytest.raises(RuntimeError, match="1 slots"):
        driver.loop.check_for_leaks()
