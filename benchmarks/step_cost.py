"""The cost of scheduling and delivering in a step, with a device that takes no time.

Some sequences run, on a runner that answers at once, and others wait. First the work of the loop's thread is timed:
schedule, commit and deliver. Then the time is measured that the event loop needs for the update of a step.

    python benchmarks/step_cost.py
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from report import Goal, Section, emit

from index_grpc.datatypes import Deadline, SamplingParams, Token, TokenRequest
from index_grpc.engine.engine import Engine
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.limits import Limits
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import EngineUpdate, Order, Submit
from index_grpc.engine.scheduler import Scheduler
from index_grpc.engine.sequence import Batch
from index_grpc.engine.token_stream import TokenStream
from index_grpc.engine.worker import OnEnd, OnUpdate

RUNNING = (1, 8, 64, 256)
WAITING = (1, 8, 64, 256)
PROMPT_IDS = list(range(5, 69))
NUM_STEPS, NUM_ROUNDS = 20, 15


class FreeRunner:
    """Computes nothing."""

    rows_independent, run_ahead = True, 0

    def launch(self, batch: Batch) -> Computed:
        return Computed([Token(7) for span in batch.spans if span.samples])


class SilentWorker:
    """Accepts orders and does nothing, so that the benchmark can give updates to an `Engine`."""

    broke = is_replaceable = False

    async def start(self, on_update: OnUpdate, on_end: OnEnd) -> None:
        self.on_update = on_update

    def post(self, order: Order) -> None:
        pass

    def abandon(self) -> None:
        pass


def request(deadline: Deadline | None = None) -> TokenRequest:
    """A request that does not end by itself."""
    return TokenRequest("cost", PROMPT_IDS, SamplingParams(seed=1), max_tokens=10**6, deadline=deadline)


def limits(num_running: int) -> Limits:
    return Limits(
        context_length=10**7,
        max_sequences=num_running,
        max_waiting=10**6,
        num_blocks=10**12,
        block_tokens=64,
        chunk_tokens=64,
        alignment_tokens=1,
        answers_like_prompts=True,
    )


class Stepping:
    """A loop with decoding and waiting sequences, all of which have deadlines."""

    def __init__(self, num_running: int, num_waiting: int = 0) -> None:
        loop = Loop(Scheduler(limits(num_running)), FreeRunner(), deliver=lambda news: None)
        deadline = Deadline(time.monotonic() + 3600, 3600, "deadline")
        for number in range(num_running + num_waiting):
            loop.apply(Submit(number, request(deadline)))
        for _ in range(num_running + 1):  # one prompt in each step
            loop.step()
        assert len(loop.scheduler.running) == num_running
        assert len(loop.scheduler.waiting) == num_waiting
        self._loop = loop

    async def seconds(self) -> float:
        """The median of some steps."""
        return statistics.median(_timed(self._loop.step) for _ in range(NUM_STEPS))


class Delivering:
    """Streams of an engine whose updates are made here."""

    def __init__(self, num_streams: int) -> None:
        self._delivered: list[EngineUpdate] = []
        self._loop = Loop(Scheduler(limits(num_streams)), FreeRunner(), deliver=self._delivered.append)
        self._worker = SilentWorker()
        self._engine = Engine(self._worker, limits(num_streams))
        self._num_streams = num_streams

    async def start(self) -> None:
        """Begins the streams, and tasks that read their tokens until the event loop ends."""
        await self._engine.start()
        streams = [self._engine.submit(request()) for _ in range(self._num_streams)]
        for number in range(self._num_streams):
            self._loop.apply(Submit(number, request()))
        for _ in range(self._num_streams):
            self._loop.step()
        self._waiting = [asyncio.create_task(_take(stream)) for stream in streams]

    async def seconds(self) -> float:
        """The median time that the event loop needs for a step's update and for waking the readers."""
        return statistics.median([await self._deliver() for _ in range(NUM_STEPS)])

    async def _deliver(self) -> float:
        self._delivered.clear()
        self._loop.step()
        started = time.perf_counter()
        for news in self._delivered:
            self._worker.on_update(news)
        await asyncio.sleep(0)
        return time.perf_counter() - started


async def _take(stream: TokenStream) -> None:
    async for _ in stream:
        pass


def _timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Round:
    """Seconds of all measurements, taken in turn, since the machine's speed may change."""

    steps: list[float]
    deliveries: list[float]
    """By the number of running sequences, as in RUNNING."""
    waiting: list[float]
    """By the number of waiting sequences, as in WAITING."""

    @property
    def each(self) -> list[float]:
        """Steps and deliveries together, for each running sequence."""
        both = zip(self.steps, self.deliveries, RUNNING, strict=True)
        return [(step + delivery) / running for step, delivery, running in both]


async def rounds() -> list[Round]:
    """Times everything in many rounds, so that changes of the machine's speed average out."""
    deliveries = [Delivering(count) for count in RUNNING]
    for delivering in deliveries:
        await delivering.start()
    ways = [Stepping(count) for count in RUNNING], deliveries, [Stepping(32, count) for count in WAITING]
    return [Round(*[[await one.seconds() for one in way] for way in ways]) for _ in range(NUM_ROUNDS)]


def measure() -> Section:
    found = asyncio.run(rounds())
    return Section(
        title="What a step costs besides computing",
        about="Scheduling, committing and delivering on a device that costs nothing, in microseconds: by how many "
        "sequences run, and with 32 running by how many wait. "
        f"Medians of {NUM_ROUNDS} rounds, in which they take turns.",
        command="python benchmarks/step_cost.py",
        columns=["", *map(str, RUNNING)],
        rows=[
            ["running: the engine's thread", *_medians(one.steps for one in found)],
            ["running: the event loop", *_medians(one.deliveries for one in found)],
            ["running: both, each sequence", *_medians(one.each for one in found)],
            ["waiting: the engine's thread", *_medians(one.waiting for one in found)],
        ],
        goals=[
            Goal.at_most(
                "a step with 256 waiting by one with 1 waiting",
                1.2,
                statistics.median(one.waiting[-1] / one.waiting[0] for one in found),
            ),
            Goal.at_most(
                "cost for each of 256 running by each of 8",
                1.2,
                statistics.median(one.each[-1] / one.each[1] for one in found),
            ),
        ],
        data={"rounds": [asdict(one) for one in found]},
    )


def _medians(found: Iterable[list[float]]) -> list[str]:
    return [f"{statistics.median(column) * 1e6:.1f}" for column in zip(*found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    emit(measure())


if __name__ == "__main__":
    main()
