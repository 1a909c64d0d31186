"""Kills the engine's process during streams: measures when every caller knows, and when the server serves again.

python benchmarks/engine_loss.py --streams 32 --rounds 3
"""

import argparse
import asyncio
import statistics
import sys
import time

from checkpoints import converted
from index_grpc_client import AsyncChatStream, AsyncClient, HealthStatus, UnavailableError
from report import Goal, Section, emit
from serving import Served, as_process

STREAM_TOKENS = 2000
POLL_SECONDS = 0.02
LONGEST_RETURN_SECONDS = 120.0


async def loss(stream: AsyncChatStream, begun: asyncio.Event) -> float:
    """The instant at which the caller is told that the engine is lost; checks that the request id is told too."""
    try:
        async for _ in stream:
            begun.set()
    except UnavailableError as error:
        if error.reason == "ENGINE_LOST" and error.request_id:
            return time.perf_counter()
        raise
    raise RuntimeError("a stream of a killed engine ended well")


async def return_to_serving(client: AsyncClient) -> float:
    """The instant at which health says SERVING after it has said NOT_SERVING."""
    wanted = [HealthStatus.NOT_SERVING, HealthStatus.SERVING]
    async with asyncio.timeout(LONGEST_RETURN_SECONDS):
        while wanted:
            if await client.health() == wanted[0]:
                del wanted[0]
            await asyncio.sleep(POLL_SECONDS)
    return time.perf_counter()


async def one_round(served: Served, num_streams: int) -> tuple[float, float]:
    """Kills the engine; returns the seconds until the last caller knows, and until the server serves again."""
    async with AsyncClient(served.address, channel_options={"grpc.enable_retries": 0}) as client:
        begun = [asyncio.Event() for _ in range(num_streams)]
        streams = [
            asyncio.create_task(loss(client.chat_stream("你好", seed=number, max_tokens=STREAM_TOKENS), event))
            for number, event in enumerate(begun)
        ]
        for event in begun:
            await event.wait()
        (engine,) = served.process.children()
        killed = time.perf_counter()
        engine.kill()
        back = asyncio.create_task(return_to_serving(client))
        known = max(await asyncio.gather(*streams))
        return known - killed, await back - killed


async def measure(served: Served, options: argparse.Namespace) -> Section:
    rounds = []
    for number in range(options.rounds):
        rounds.append(await one_round(served, options.streams))
        known, back = rounds[-1]
        print(f"round {number + 1}: all know after {known:.3f} s, serving after {back:.1f} s", file=sys.stderr)
    known, back = max(known for known, _ in rounds), statistics.median(back for _, back in rounds)
    return Section(
        title="The loss of the engine",
        about=f"The engine's process is killed amid {options.streams} streams on the mid checkpoint: the worst time "
        "until the last of them has ended with UNAVAILABLE and its request id, and the time until health says SERVING.",
        command=f"python benchmarks/engine_loss.py --streams {options.streams} --rounds {options.rounds}",
        columns=["", "s"],
        rows=[["every caller knows", f"{known:.3f}"], ["serving again", f"{back:.1f}"]],
        goals=[Goal.at_most("until every caller knows", 2, known, " s")],
        data={"rounds_s": rounds},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="fewer than five, after which a server gives up")
    options = parser.parse_args()
    model = str(converted("mid", gguf=()) / "llama")
    with as_process("--model", model, "--engine-process", "--max-sequences", str(options.streams)) as served:
        emit(asyncio.run(measure(served, options)))


if __name__ == "__main__":
    main()
