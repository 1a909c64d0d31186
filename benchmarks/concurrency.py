"""Times streams at once against the same streams one after another, through the real door.

Starts a server on the demo checkpoint, asks the same seeded prompt in every stream so that all answers are equally
long, and takes turns between both ways so that the machine's drift hits both alike. The last line is one JSON object.

    python benchmarks/concurrency.py --streams 16 --rounds 5
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from index_grpc_client import AsyncClient

from index_grpc.launch import load
from index_grpc.server.app import App
from index_grpc.settings import ServeSettings

PROMPT = "Tell me a story."
SEED = 3


async def stream(client: AsyncClient) -> int:
    """One answer; the number of its tokens."""
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


async def measure(num_streams: int, num_rounds: int, threads: int) -> dict[str, object]:
    """Seconds of both ways in each round, and their ratios."""
    app = App(ServeSettings(port=0, threads=threads))
    address = await app.listen()
    await app.load(lambda: load(app.settings))
    rounds = []
    async with AsyncClient(address) as client:
        num_tokens = await stream(client)
        for number in range(num_rounds):
            pair = [await seconds(way, client, num_streams) for way in (one_after_another, at_once)]
            rounds.append(pair)
            print(f"round {number + 1}: {pair[0]:.2f} s in turn, {pair[1]:.2f} s at once", file=sys.stderr)
    await app.stop()
    in_turn, together = (statistics.median(way) for way in zip(*rounds, strict=True))
    return {
        "streams": num_streams,
        "tokens_per_stream": num_tokens,
        "seconds_in_turn": round(in_turn, 3),
        "seconds_at_once": round(together, 3),
        "times_sooner": round(statistics.median(first / second for first, second in rounds), 2),
        "times_sooner_each_round": [round(first / second, 2) for first, second in rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16, help="streams in each way (default 16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default 5)")
    parser.add_argument("--threads", type=int, default=0, help="threads to compute with (default: the server's)")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.streams, options.rounds, options.threads))))


if __name__ == "__main__":
    main()
