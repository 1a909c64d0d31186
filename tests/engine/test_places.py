"""How many requests can run at once where memory holds fewer than there are slots, and what follows for the others."""

import copy
import dataclasses
import random
import time

import pytest

from index_grpc.datatypes import Deadline, SamplingParams, Timing, TokenRequest
from index_grpc.engine.engine import Engine
from index_grpc.engine.limits import Limits
from index_grpc.engine.orders import EngineUpdate, Occupancy, Order
from index_grpc.engine.scheduler import Scheduler
from index_grpc.engine.sequence import Batch
from index_grpc.engine.worker import OnEnd, OnUpdate
from index_grpc.errors import Overloaded
from tests.engine.driver import LoopDriver
from tests.engine.fake_runner import VOCAB, FakeRunner

LIMITS = Limits(
    120, 12, 100, num_blocks=60, block_tokens=8, chunk_tokens=16, alignment_tokens=1, answers_like_prompts=True
)
"""There are slots for twelve sequences, and blocks for four whole contexts."""


class CheckedScheduler(Scheduler):
    """Checks after each step that a shortage of blocks is reported exactly if there is one."""

    num_short = 0
    """Number of steps with a shortage."""

    def schedule(self, now: float) -> Batch:
        num_preemptions = self.num_preemptions
        batch = super().schedule(now)
        is_short = self.num_places is not None
        if self.num_preemptions > num_preemptions:
            assert is_short
        else:
            assert is_short == (bool(self.waiting and self.free_slots) and not self._next_could_begin())
        if is_short:
            self.num_short += 1
            assert self.num_places == sum(one.scheduled_at > 0 for one in [*self.running, *self.waiting.values()]) > 0
        return batch

    def _next_could_begin(self) -> bool:
        """Whether the next in the queue would begin if a step had time for all prompts."""
        twin = copy.deepcopy(self)
        twin._begin_prompts({}, 10**6, 0.0)
        return next(iter(self.waiting)) not in twin.waiting


@pytest.mark.parametrize("run_ahead", [0, 1])
@pytest.mark.parametrize("alignment_tokens", [1, 8])
@pytest.mark.parametrize("prefix_reuse", [True, False])
def test_places_are_short_exactly_while_the_next_finds_too_few_blocks(
    prefix_reuse: bool, alignment_tokens: int, run_ahead: int
) -> None:
    num_short = 0
    for seed in range(2):
        rng = random.Random(seed)
        limits = dataclasses.replace(
            LIMITS,
            num_blocks=rng.choice([15, 30, 60, 200]),
            alignment_tokens=alignment_tokens,
            prefix_reuse=prefix_reuse,
        )
        scheduler = CheckedScheduler(limits)
        driver = LoopDriver(FakeRunner(16, run_ahead=run_ahead), limits, frozenset(), scheduler)
        for number in range(40):
            prompt = [9] * rng.randint(1, 20) + [rng.randrange(5, VOCAB) for _ in range(rng.choice([1, 20, 90]))]
            driver.submit(number, prompt, rng.choice([1, 5, 100]))
            for _ in range(rng.choice([0, 0, 1, 5, 20])):
                driver.step_if_busy()
            if rng.random() < 0.2 and driver.loop.sequences:
                driver.cancel(rng.choice(list(driver.loop.sequences)))
        driver.finish()
        assert driver.occupancy.num_places is None
        num_short += scheduler.num_short
    assert num_short > 0


def test_a_burst_is_no_shortage() -> None:
    """The prompts begin one by one, since a step has no time for more of them, but there are blocks for all."""
    driver = LoopDriver(FakeRunner(16), dataclasses.replace(LIMITS, num_blocks=12 * 15), frozenset())
    for number in range(12):
        driver.submit(number, [9 + number] * 100, max_tokens=20)
    while driver.loop.is_busy:
        driver.step_if_busy()
        assert driver.occupancy.num_places is None


def crowded() -> LoopDriver:
    """A loop with six requests, of which two fit into memory. Each prompt takes five steps."""
    driver = LoopDriver(FakeRunner(16), dataclasses.replace(LIMITS, num_blocks=24), frozenset())
    for number in range(6):
        driver.submit(number, [9 + number] * 70, max_tokens=40)
    return driver


def test_a_shortage_is_seen_while_a_prompt_takes_all_the_time_of_a_step() -> None:
    driver = crowded()
    while len(driver.loop.scheduler.running) < 2:
        assert driver.occupancy.num_places is None
        driver.step_if_busy()
    assert driver.occupancy.num_places == 2


def test_nothing_is_short_once_nobody_waits() -> None:
    """The next burst must not be judged by a shortage that has ended with the last requests."""
    driver = crowded()
    for _ in range(10):
        driver.step_if_busy()
    assert driver.occupancy.num_places == 2
    for number in range(6):
        driver.cancel(number)
    assert driver.occupancy.num_places is None


def test_a_shortage_ends_with_the_one_that_lacked_blocks() -> None:
    """What a long prompt lacked says nothing about the short ones behind it."""
    driver = crowded()
    for number in range(6, 10):
        driver.submit(number, [9 + number], max_tokens=5)
    for _ in range(10):
        driver.step_if_busy()
    for number in range(3, 6):
        driver.cancel(number)
        assert driver.occupancy.num_places == 2
    driver.cancel(2)
    assert driver.occupancy.num_places is None
    driver.step_if_busy()
    assert len(driver.loop.scheduler.running) > 2
    assert driver.occupancy.num_places is None


class SilentWorker:
    """Takes orders and does nothing, so that a test can give updates to an `Engine`."""

    broke = is_replaceable = False

    async def start(self, on_update: OnUpdate, on_end: OnEnd) -> None:
        self.on_update = on_update

    def post(self, order: Order) -> None:
        pass

    def abandon(self) -> None:
        pass


ANSWER_SECONDS = 40.0


async def busy_engine(num_open: int, occupancy: Occupancy) -> Engine:
    """An engine with open requests, whose last answers took 40 s each, and whose worker has told this occupancy."""
    worker = SilentWorker()
    engine = Engine(worker, LIMITS)
    await engine.start()
    for _ in range(num_open):
        engine.submit(TokenRequest("x", [5] * 100, SamplingParams(), max_tokens=20))
    engine.pace.record(Timing(queue=0.0, time_to_first_token=1.0, total=ANSWER_SECONDS))
    worker.on_update(EngineUpdate([], occupancy))
    return engine


def within(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds, seconds, "deadline")


async def test_a_call_that_would_wait_for_memory_past_its_deadline_is_refused() -> None:
    engine = await busy_engine(9, Occupancy(num_running=4, num_places=4))
    assert engine.expected_wait_seconds() == 6 * ANSWER_SECONDS / 4
    with pytest.raises(Overloaded, match=r"the call would wait about 60\.00 s, and its deadline leaves only "):
        engine.require_place(within(50.0))
    engine.require_place(within(70.0))
    engine.require_place(None)


async def test_no_call_is_refused_for_its_deadline_while_there_may_be_memory_for_it() -> None:
    engine = await busy_engine(11, Occupancy(num_running=4))
    assert engine.expected_wait_seconds() == 0
    engine.require_place(within(1.0))


async def test_the_delay_that_a_refused_caller_is_told_follows_from_the_places_in_memory() -> None:
    engine = await busy_engine(LIMITS.max_sequences + LIMITS.max_waiting, Occupancy(num_running=4, num_places=4))
    with pytest.raises(Overloaded) as caught:
        engine.require_place(None)
    assert caught.value.retry_after_seconds == ANSWER_SECONDS / 4
