"""Times streams at once against the same streams one after another, over gRPC.

Starts a server on the demo checkpoint. Every stream has the same prompt and seed, so all answers are equally long. Both
ways take turns, so that changes of the machine's speed affect both. The last line is one JSON object.

    python benchmarks/concurrency.py --streams 16 --rounds 5
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from index_grpc_client import AsyncClient
from report import Section, emit
from serving import in_process

PROMPT = "Tell me a story."
SEED = 3


async def stream(client: AsyncClient) -> int:
    """Gets one answer and returns the number of its tokens."""
    answer = client.chat_stream(PROMPT, seed=SEED)
    async with answer:
        async for _ in answer:
            pass
    return answer.result().usage.completion_tokens


async def one_after_another(client: AsyncClient, num_streams: int) -> None:
    for _ in range(num_streams):
        await stream(client)


async def at_once(client: AsyncClient, num_streams: int) -> None:
    await asyncio.gather(*(stream(client) for _ in range(num_streams)))


async def seconds(way: Callable[[AsyncClient, int], Awaitable[None]], client: AsyncClient, num_streams: int) -> float:
    started = time.perf_counter()
    await way(client, num_streams)
    return time.perf_counter() - started


async def measure(options: argparse.Namespace) -> Section:
    """Measures the seconds of both ways in each round, and their ratios."""
    rounds = []
    async with in_process(model="demo", threads=options.threads) as (_, address), AsyncClient(address) as client:
        num_tokens = await stream(client)
        for number in range(options.rounds):
            pair = [await seconds(way, client, options.streams) for way in (one_after_another, at_once)]
            rounds.append(pair)
            print(f"round {number + 1}: {pair[0]:.2f} s in turn, {pair[1]:.2f} s at once", file=sys.stderr)
    in_turn, together = (statistics.median(way) for way in zip(*rounds, strict=True))
    ratios = [first / second for first, second in rounds]
    return Section(
        title="Streams of the demo",
        about=f"{options.streams} seeded answers of {num_tokens} tokens each over gRPC on the demo checkpoint: one "
        "after another, and at once.",
        command=f"python benchmarks/concurrency.py --streams {options.streams} --rounds {options.rounds}",
        columns=["", "in turn", "at once", "times sooner"],
        rows=[["seconds", f"{in_turn:.2f}", f"{together:.2f}", f"{statistics.median(ratios):.1f}"]],
        data={"rounds_s": rounds, "ratios": ratios},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16, help="streams in each way (default 16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default 5)")
    parser.add_argument("--threads", type=int, default=0, help="threads to compute with (default: the server's)")
    emit(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
