"""Conversations with few blocks, many callers and failures: every answer is the same as if it were computed alone."""

import dataclasses
import random
from dataclasses import dataclass, field

import pytest

from index_grpc.datatypes import FinishReason
from index_grpc.engine.limits import Limits
from index_grpc.engine.sequence import Batch
from index_grpc.errors import DeviceLost, RequestFailed
from tests.engine.driver import LoopDriver
from tests.engine.fake_runner import LATE_POISON, POISONS, VOCAB, FakeLaunched, FakeRunner, answer

LIMITS = Limits(
    120, 6, 100, num_blocks=0, block_tokens=8, chunk_tokens=16, alignment_tokens=1, answers_like_prompts=True
)
NUM_REQUESTS = 60


@dataclass
class RandomRequests:
    """Random requests, which often continue an earlier one."""

    rng: random.Random
    prompts: dict[int, list[int]] = field(default_factory=dict)
    max_tokens: dict[int, int] = field(default_factory=dict)

    def ask(self, number: int) -> tuple[list[int], int]:
        """A prompt, and the most tokens of its answer."""
        rng, earlier = self.rng, earlier_number(self.rng, self.prompts)
        beginning = [9] * rng.randint(1, 40) if earlier is None else self._told(earlier)[: rng.randint(1, 100)]
        self.prompts[number] = [*beginning, *(rng.randrange(5, VOCAB) for _ in range(rng.randint(1, 12)))]
        if rng.random() < 0.1:
            self.prompts[number][-1] = rng.choice(sorted(POISONS))
        self.max_tokens[number] = rng.choice([1, 5, 30, 100])
        return self.prompts[number], self.max_tokens[number]

    def whole(self, number: int) -> list[int]:
        """The answer, computed alone."""
        room = LIMITS.context_length - len(self.prompts[number])
        return answer(self.prompts[number], min(self.max_tokens[number], room))

    def _told(self, number: int) -> list[int]:
        prompt = [token_id for token_id in self.prompts[number] if token_id not in POISONS]
        return prompt if len(prompt) < len(self.prompts[number]) else [*prompt, *self.whole(number)]


def earlier_number(rng: random.Random, numbers: dict[int, list[int]]) -> int | None:
    return rng.choice(list(numbers)) if numbers and rng.random() < 0.7 else None


@pytest.mark.parametrize("run_ahead", [0, 1, 2])
@pytest.mark.parametrize("answers_like_prompts", [True, False])
@pytest.mark.parametrize("alignment_tokens", [1, 8])
@pytest.mark.parametrize("block_tokens", [8, 5, 120])
def test_every_answer_is_the_same_as_alone(
    block_tokens: int, alignment_tokens: int, answers_like_prompts: bool, run_ahead: int
) -> None:
    for seed in range(4):
        rng = random.Random(seed)
        limits = dataclasses.replace(
            LIMITS,
            block_tokens=block_tokens,
            num_blocks=int(120 / block_tokens * rng.choice([1, 1.5, 2, 4])),
            alignment_tokens=alignment_tokens,
            answers_like_prompts=answers_like_prompts,
        )
        driver, requests = LoopDriver(FakeRunner(16, run_ahead=run_ahead), limits, frozenset()), RandomRequests(rng)
        for number in range(NUM_REQUESTS):
            driver.submit(number, *requests.ask(number))
            for _ in range(rng.choice([0, 0, 1, 5, 40])):
                driver.step_if_busy()
            if rng.random() < 0.2 and driver.loop.sequences:
                driver.cancel(rng.choice(list(driver.loop.sequences)))
        driver.finish()
        for number in requests.prompts:
            check(driver, requests, number)


def check(driver: LoopDriver, requests: RandomRequests, number: int) -> None:
    last, tokens, whole = driver.reports[number][-1], driver.tokens(number), requests.whole(number)
    assert [report.ended for report in driver.reports[number]].count(True) == 1
    if POISONS & set(requests.prompts[number]):
        assert isinstance(last.error, RequestFailed) or (last.error is None and not tokens)
    elif last.output is None:  # its caller left before the end
        assert last.error is None
        assert tokens == whole[: len(tokens)]
    else:
        assert tokens == whole


def test_the_last_request_is_preempted_and_continues_later() -> None:
    """Three sequences do not fit at once. Each gets its whole answer, and the first one is never preempted."""
    limits = dataclasses.replace(LIMITS, num_blocks=15)
    driver = LoopDriver(FakeRunner(16), limits, frozenset())
    for number in range(3):
        driver.submit(number, [9 + number] * 10, max_tokens=60)
    order: list[int] = []
    while driver.loop.is_busy:
        driver.step_if_busy()
        order += [number for number in driver.reports if driver.reports[number][-1].ended and number not in order]
    driver.loop.check_for_leaks()
    assert order == [0, 1, 2]
    assert driver.num_preemptions > 0
    assert len(driver.reports[0]) == 60
    for number in range(3):
        assert driver.tokens(number) == answer([9 + number] * 10, 60)
        assert driver.last_output(number).cached_prompt_tokens == 0


@pytest.mark.parametrize("answers_like_prompts", [True, False])
def test_prompt_tokens_are_counted_each_time_and_none_of_an_answer(answers_like_prompts: bool) -> None:
    """After a preemption prompt and answer are computed again, perhaps in one chunk, but only prompt tokens count."""
    limits = dataclasses.replace(
        LIMITS, num_blocks=15, prefix_reuse=False, answers_like_prompts=answers_like_prompts, chunk_tokens=64
    )
    driver = LoopDriver(FakeRunner(64), limits, frozenset())
    for number in range(2):
        driver.submit(number, [9 + number] * 10, max_tokens=100)
    driver.finish()
    assert driver.num_preemptions == 1
    assert sum(step.num_preemptions for step in driver.steps) == 1
    assert sum(step.num_prompt_tokens for step in driver.steps) == 3 * 10


def test_nothing_is_preempted_when_all_fit() -> None:
    limits = dataclasses.replace(LIMITS, num_blocks=3 * 15)
    driver = LoopDriver(FakeRunner(16), limits, frozenset())
    for number in range(10):
        driver.submit(number, [9 + number] * 50, max_tokens=25)
    driver.finish()
    assert driver.num_preemptions == 0


@pytest.mark.parametrize("answers_like_prompts", [True, False])
def test_blocks_of_a_failed_step_are_not_kept(answers_like_prompts: bool) -> None:
    """A caller leaves during a step that fails; the contents of its blocks must not be reused then."""
    limits = dataclasses.replace(LIMITS, num_blocks=60, answers_like_prompts=answers_like_prompts)
    driver = LoopDriver(FakeRunner(16, run_ahead=1), limits, frozenset())
    driver.submit(0, [LATE_POISON], max_tokens=5)
    driver.submit(1, [9] * 15, max_tokens=5)
    driver.step_if_busy()
    driver.cancel(1)
    driver.submit(2, [9] * 20, max_tokens=5)
    driver.finish()
    assert isinstance(driver.reports[0][-1].error, RequestFailed)
    assert driver.tokens(2) == answer([9] * 20, 5)


def test_a_lost_device_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = FakeRunner(16)
    driver = LoopDriver(runner, dataclasses.replace(LIMITS, num_blocks=15), frozenset())
    launches: list[Batch] = []

    def lose(batch: Batch) -> FakeLaunched:
        launches.append(batch)
        raise DeviceLost("gone")

    monkeypatch.setattr(runner, "launch", lose)
    for number in range(2):
        driver.submit(number, [9, 10], max_tokens=5)
    with pytest.raises(DeviceLost):
        driver.step_if_busy()
    assert len(launches) == 1
    assert not driver.reports


@pytest.mark.parametrize("answers_like_prompts", [True, False])
def test_a_deadline_ends_a_preempted_answer_that_waits(answers_like_prompts: bool) -> None:
    """The preempted request ends with its tokens so far, although no more token comes for it."""
    limits = dataclasses.replace(LIMITS, num_blocks=15, answers_like_prompts=answers_like_prompts)
    driver = LoopDriver(FakeRunner(16), limits, frozenset())
    driver.submit(0, [9] * 10, max_tokens=100)
    driver.submit(1, [10] * 10, max_tokens=100, deadline_at=1e9)
    while not driver.num_preemptions:
        driver.step_if_busy()
    told = driver.tokens(1)
    assert told == answer([10] * 10, 100)[: len(told)]
    driver.loop.deadlines.note(0.001, 1, still_open=driver.loop.sequences)
    driver.step_if_busy()
    assert driver.last_output(1).reason is FinishReason.TIME_LIMIT
    assert driver.tokens(1) == told
    driver.finish()
