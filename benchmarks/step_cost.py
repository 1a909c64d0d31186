"""What scheduling and delivering cost a step, on a device that costs nothing.

Sequences run on a runner that answers at once, others wait. The loop's thread is timed by itself: schedule, commit and
deliver; then what the event loop spends on the news of a step.

    python benchmarks/step_cost.py
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable

from report import Goal, Section, emit

from index_grpc.contract import SamplingParams, Token, TokenRequest
from index_grpc.engine.door import Engine
from index_grpc.engine.flights import Computed
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import News, Order, Submit
from index_grpc.engine.scheduler import Limits, Scheduler
from index_grpc.engine.sequence import Batch
from index_grpc.engine.token_stream import TokenStream
from index_grpc.engine.worker import Ended, Receive

RUNNING = (1, 8, 64, 256)
WAITING = (1, 8, 64, 256)
PROMPT_IDS = list(range(5, 69))
NUM_STEPS = 400


class FreeRunner:
    """Computes nothing."""

    rows_independent, run_ahead = True, 0

    def launch(self, batch: Batch) -> Computed:
        return Computed([Token(7) for span in batch.spans if span.samples])


class SilentWorker:
    """Takes orders and does nothing, so that a door can be handed news by hand."""

    broke = is_replaceable = False

    async def start(self, receive: Receive, ended: Ended) -> None:
        self.receive = receive

    def post(self, order: Order) -> None:
        pass

    def abandon(self) -> None:
        pass


def request(deadline: float | None = None) -> TokenRequest:
    """One that does not end by itself."""
    return TokenRequest("cost", PROMPT_IDS, SamplingParams(seed=1), max_tokens=10**6, deadline=deadline)


def limits(num_running: int) -> Limits:
    return Limits(
        context_length=10**7,
        max_sequences=num_running,
        max_waiting=10**6,
        num_blocks=10**12,
        block_tokens=64,
        chunk_tokens=64,
        grain_tokens=1,
        answers_like_prompts=True,
    )


def step_seconds(num_running: int, num_waiting: int) -> float:
    """Median seconds of a step with so many sequences decoding and so many waiting, all of which have deadlines."""
    loop = Loop(Scheduler(limits(num_running)), FreeRunner(), deliver=lambda news: None)
    deadline = time.monotonic() + 3600
    for number in range(num_running + num_waiting):
        loop.follow(Submit(number, request(deadline)))
    for _ in range(num_running + 1):  # a prompt a step
        loop.step()
    assert len(loop.scheduler.running) == num_running
    assert len(loop.scheduler.waiting) == num_waiting
    return statistics.median(_timed(loop.step) for _ in range(NUM_STEPS))


async def delivery_seconds(num_streams: int) -> float:
    """Median seconds that the event loop spends on a step's news and on waking who waits for them."""
    delivered: list[News] = []
    loop = Loop(Scheduler(limits(num_streams)), FreeRunner(), deliver=delivered.append)
    worker = SilentWorker()
    engine = Engine(worker, limits(num_streams))
    await engine.start()
    streams = [engine.submit(request()) for _ in range(num_streams)]
    for number in range(num_streams):
        loop.follow(Submit(number, request()))
    for _ in range(num_streams):
        loop.step()
    taking = [asyncio.create_task(_take(stream)) for stream in streams]
    seconds = []
    for _ in range(NUM_STEPS):
        delivered.clear()
        loop.step()
        started = time.perf_counter()
        for news in delivered:
            worker.receive(news)
        await asyncio.sleep(0)
        seconds.append(time.perf_counter() - started)
    for task in taking:
        task.cancel()
    return statistics.median(seconds)


async def _take(stream: TokenStream) -> None:
    async for _ in stream:
        pass


def _timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def measure() -> Section:
    steps = {running: step_seconds(running, 0) for running in RUNNING}
    deliveries = {running: asyncio.run(delivery_seconds(running)) for running in RUNNING}
    waits = {waiting: step_seconds(32, waiting) for waiting in WAITING}
    growth = waits[WAITING[-1]] / waits[WAITING[0]]
    each = {running: (steps[running] + deliveries[running]) / running for running in RUNNING}
    return Section(
        title="What a step costs besides computing",
        about="Scheduling, committing and delivering on a device that costs nothing, in microseconds: by how many "
        "sequences run, and with 32 running by how many wait.",
        command="python benchmarks/step_cost.py",
        columns=["", *map(str, RUNNING)],
        rows=[
            ["running: the engine's thread", *(f"{steps[running] * 1e6:.0f}" for running in RUNNING)],
            ["running: the event loop", *(f"{deliveries[running] * 1e6:.0f}" for running in RUNNING)],
            ["running: both, each sequence", *(f"{each[running] * 1e6:.1f}" for running in RUNNING)],
            ["waiting: the engine's thread", *(f"{waits[waiting] * 1e6:.0f}" for waiting in WAITING)],
        ],
        goals=[
            Goal.at_most("a step with 256 waiting by one with 1 waiting", 1.2, growth),
            Goal.at_most("cost for each of 256 running by each of 8", 1.2, each[256] / each[8]),
        ],
        data={"steps": steps, "deliveries": deliveries, "waiting": waits},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    emit(measure())


if __name__ == "__main__":
    main()
