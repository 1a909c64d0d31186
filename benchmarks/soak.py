"""Sends a server more calls than it can take, for a long time, and checks what was promised for every call.

First there are twice as many callers as places to run and to wait: answers, streams, deadlines, cancels, bad requests.
Every complete answer must equal the one with the same seed from the idle server, every refusal must say when to retry,
and memory must stay level. Then standard clients without code of ours, only with a retry policy, make calls at a rate
below the server's capacity, and every call must complete. Exits with 1 if a promise was broken.

    python benchmarks/soak.py
    python benchmarks/soak.py --seconds 60 --engine-process
    python benchmarks/soak.py --model benchmarks/.checkpoints/mid/llama

An answer of the demo model costs as little as a few refusals. If the machine has other work to do, the second part
needs a larger model; otherwise the retries after a short overload prolong it.
"""

import argparse
import asyncio
import functools
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from callers import Caller, Ledger, Question, questions
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub
from report import Goal, Section, emit
from retrying import Retried, throughput
from serving import Served, as_process

MAX_SEQUENCES, MAX_WAITING = 8, 24
CALLERS = 2 * (MAX_SEQUENCES + MAX_WAITING)
WARM_UP_SECONDS = 60.0
"""Memory should be level after this time; a shorter run does not check it."""
MEMORY_SAMPLE_SECONDS = 1.0
NUM_SAMPLES = 10
"""Number of samples at the beginning and at the end whose medians are compared."""
PROGRESS_SECONDS = 10.0
ROUND_SECONDS = 15.0
"""Duration of a round of standard clients at one rate."""
MEASURE_SECONDS = 8.0
"""Duration of measuring the server's capacity, before and after a round."""


@dataclass
class Memory:
    """Samples of the memory of the server and its engine's process."""

    samples: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float | None:
        """The relative growth of memory since the first minute; None if the run is too short."""
        level = self.samples[round(WARM_UP_SECONDS / MEMORY_SAMPLE_SECONDS) :]
        if len(level) < 2 * NUM_SAMPLES:
            return None
        return statistics.median(level[-NUM_SAMPLES:]) / statistics.median(level[:NUM_SAMPLES]) - 1


@asynccontextmanager
async def watched(served: Served, memory: Memory, ledger: Ledger) -> AsyncIterator[None]:
    """Samples memory and prints progress while the block runs."""

    async def watch() -> None:
        started = told = time.monotonic()
        while True:
            memory.samples.append(served.memory_bytes())
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                counts = ", ".join(f"{count} {outcome}" for outcome, count in ledger.outcomes.most_common())
                print(f"{told - started:4.0f} s, {memory.samples[-1] / 2**20:.0f} MiB: {counts}", file=sys.stderr)
            await asyncio.sleep(MEMORY_SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def run_callers(address: str, known: list[Question], seconds: float, ledger: Ledger) -> None:
    """Lets all callers make calls for this time."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(Caller(address, known, f"caller {number}", ledger).work(over))
        await asyncio.sleep(seconds)
        over.set()


async def soak(served: Served, options: argparse.Namespace) -> Section:
    """Runs both parts."""
    ledger, memory = Ledger(), Memory()
    async with grpc.aio.insecure_channel(served.address) as channel:
        known = await questions(ChatServiceStub(channel))
    async with watched(served, memory, ledger):
        await run_callers(served.address, known, options.seconds, ledger)
    retried = Retried(served.address, known)
    for number in range(max(1, round(options.seconds / 4 / ROUND_SECONDS))):
        await stock_round(served, retried, number, options)
    return section(ledger, memory, retried, served, options)


async def stock_round(served: Served, total: Retried, number: int, options: argparse.Namespace) -> None:
    """A round of standard clients, at the given share of the server's capacity just before.

    Other work on the machine may slow the server down: if calls fail, and the rate is more than that share of the
    capacity just after the round, the round does not count.
    """
    seconds = min(ROUND_SECONDS, options.seconds / 4)
    measure = functools.partial(throughput, served.address, total.known, MAX_SEQUENCES, min(MEASURE_SECONDS, seconds))
    rate, num_refused = options.load * await measure(), served.num_overloaded
    found = Retried(served.address, total.known)
    await found.arrive(f"round {number}", rate, seconds)
    found.num_refused = served.num_overloaded - num_refused
    counts, verdict = True, ""
    if found.broken:
        most = options.load * await measure()
        counts = rate <= most
        verdict = f", {most:.0f} would have been right after" + ("" if counts else ", so it does not count")
    print(
        f"round {number + 1} of stock clients, {rate:.0f} a second: {found.num_broken} failed{verdict}", file=sys.stderr
    )
    if counts:
        total.add(found)


def section(ledger: Ledger, memory: Memory, retried: Retried, served: Served, options: argparse.Namespace) -> Section:
    """The results and goals."""
    broken = [*ledger.broken, *retried.broken, *served.severe]
    growth = None if memory.growth is None else 100 * memory.growth
    num_calls = ledger.outcomes.total()
    goals = [
        Goal.at_most("broken promises", 0, ledger.num_broken),
        Goal.at_least("answers under pressure", 1, ledger.outcomes["answered"]),
        Goal.at_least("refusals under pressure", 1, ledger.outcomes["refused"]),
        Goal.at_most("growth of memory after the first minute", 5, growth, " %"),
        Goal.at_least("answers to stock clients", 1, retried.num_answered),
        Goal.at_most("calls of stock clients that failed", 0, retried.num_broken),
        Goal.at_most("errors in the server's log", 0, len(served.severe)),
    ]
    own = " --engine-process" if options.engine_process else ""
    rows = [[outcome, str(count)] for outcome, count in ledger.outcomes.most_common()]
    rows += [
        ["stock clients: answered", str(retried.num_answered)],
        ["their attempts that were refused", str(retried.num_refused)],
    ]
    return Section(
        title="Soak",
        about=f"{num_calls} calls of {CALLERS} callers at {MAX_SEQUENCES} places to run and {MAX_WAITING} to wait, for "
        f"{options.seconds:g} s; then stock clients at {options.load:g} times what the server can do.",
        command=f"python benchmarks/soak.py --seconds {options.seconds:g}{own}",
        columns=["", "calls"],
        rows=rows,
        goals=goals,
        notes=broken,
        data={"outcomes": dict(ledger.outcomes), "memory_bytes": memory.samples},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of the first part; the second takes a quarter")
    parser.add_argument("--load", type=float, default=0.8, help="of the second part, by what the server can do")
    parser.add_argument("--model", default="demo", help="what to serve (default demo)")
    parser.add_argument("--engine-process", action="store_true", help="serve with the engine in a process of its own")
    options = parser.parse_args()
    places = ["--max-sequences", str(MAX_SEQUENCES), "--max-waiting", str(MAX_WAITING)]
    with as_process(
        "--model", options.model, *places, *(["--engine-process"] if options.engine_process else [])
    ) as served:
        found = asyncio.run(soak(served, options))
    emit(found)
    sys.exit(any(goal.is_met is False for goal in found.goals))


if __name__ == "__main__":
    main()
