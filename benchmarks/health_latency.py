"""How long a health check takes while every place is taken and long prompts are computed.

If a health check takes too long, an orchestrator ends the server and all its answers.

python benchmarks/health_latency.py --seconds 30
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from checkpoints import converted
from index_grpc_client import AsyncClient, UnavailableError
from report import Goal, Section, emit
from serving import as_process

from index_grpc.bench.workload import Workload, fit_words

PROBE = Path(__file__).with_name("health_probe.py")
CHECKS_PER_SECOND = 50
MAX_SEQUENCES, MAX_WAITING = 32, 4
NUM_LONG = 2
"""Number of callers that send long prompts, one after another."""
SHORT_TOKENS, LONG_TOKENS, ANSWER_TOKENS = 32, 3000, 256
SETTLE_SECONDS = 3.0
"""How long it takes until all places are taken."""
WAYS = {"idle": [], "thread": [], "process": ["--engine-process"]}


async def keep_asking(client: AsyncClient, workload: Workload, series: str, max_tokens: int) -> None:
    """Makes one call after another until cancelled."""
    for number in itertools.count():
        prompt = workload.prompt(series, number)
        try:
            async with client.chat_stream(prompt.text, seed=prompt.seed, max_tokens=max_tokens) as answer:
                async for _ in answer:
                    pass
        except UnavailableError as error:
            await asyncio.sleep(error.retry_after or 0.1)


@asynccontextmanager
async def saturated(address: str) -> AsyncIterator[None]:
    """Keeps all places taken, by streams and by long prompts, while the block runs."""
    async with AsyncClient(address, channel_options={"grpc.enable_retries": 0}) as client:
        short, long = [Workload(0, await fit_words(client, 0, size)) for size in (SHORT_TOKENS, LONG_TOKENS)]
        callers = [keep_asking(client, long, f"long {number}", 2) for number in range(NUM_LONG)]
        num_short = MAX_SEQUENCES + MAX_WAITING - NUM_LONG
        callers += [keep_asking(client, short, f"short {number}", ANSWER_TOKENS) for number in range(num_short)]
        tasks = [asyncio.create_task(caller) for caller in callers]
        await asyncio.sleep(SETTLE_SECONDS)
        yield
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def checked(address: str, seconds: float) -> list[float]:
    """The seconds of each health check in that time."""
    command = [sys.executable, str(PROBE), address, str(CHECKS_PER_SECOND)]
    probe = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    await asyncio.sleep(seconds)
    told, _ = await probe.communicate(b"")
    found: list[float] = json.loads(told)
    return found


async def measure(way: str, address: str, seconds: float) -> list[float]:
    """The seconds of health checks of an idle or a saturated server."""
    if way == "idle":
        return await checked(address, seconds)
    async with saturated(address):
        return await checked(address, seconds)


def percentile(seconds: Sequence[float], share: float) -> float:
    """A percentile in milliseconds."""
    ordered = sorted(seconds)
    return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def section(found: dict[str, list[float]], options: argparse.Namespace) -> Section:
    """The results and goals."""
    columns = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "worst": 1.0}
    rows = [
        [way, *(f"{percentile(seconds, share):.1f}" for share in columns.values())] for way, seconds in found.items()
    ]
    return Section(
        title="Health under load",
        about=f"Health/Check {CHECKS_PER_SECOND} times a second from another process, in milliseconds: of an idle "
        f"server, and on the mid checkpoint while {MAX_SEQUENCES} calls run, {MAX_WAITING} wait and prompts of "
        f"{LONG_TOKENS} tokens are computed, the engine in a thread or in a process of its own.",
        command=f"python benchmarks/health_latency.py --seconds {options.seconds:g}",
        columns=["ms", *columns],
        rows=rows,
        goals=[
            Goal.at_most(f"p99 with the engine in a {way}", 20, percentile(found[way], 0.99), " ms")
            for way in ("thread", "process")
        ],
        data={"num_checks": {way: len(seconds) for way, seconds in found.items()}},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement (default 30)")
    options = parser.parse_args()
    model = str(converted("mid", gguf=()) / "llama")
    places = ["--max-sequences", str(MAX_SEQUENCES), "--max-waiting", str(MAX_WAITING)]
    found = {}
    for way, flags in WAYS.items():
        with as_process("--model", model, *places, *flags) as served:
            found[way] = asyncio.run(measure(way, served.address, options.seconds))
        print(f"{way}: p99 {percentile(found[way], 0.99):.1f} ms of {len(found[way])} checks", file=sys.stderr)
    emit(section(found, options))


if __name__ == "__main__":
    main()
