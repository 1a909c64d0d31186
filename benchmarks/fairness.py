"""How a long prompt delays running streams: the longest gap between their messages while it is computed.

python benchmarks/fairness.py --streams 8 --prompt-tokens 3000 --rounds 9
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from itertools import pairwise

from checkpoints import converted
from index_grpc_client import AsyncClient
from report import Goal, Section, emit
from serving import in_process

from index_grpc.bench.workload import Workload, fit_words
from index_grpc.engine.runner import CpuRunner
from index_grpc.loading import load_runner
from index_grpc.loading.sizing import CHUNK_TOKENS
from index_grpc.settings import ServeSettings

STREAM_TOKENS = 800
NUM_LAST = 5
"""Number of chunks at the prompt's end, whose median counts."""
BEFORE_SECONDS = 1.0
"""How long the streams run alone before the long prompt comes."""


class Chunks:
    """The chunks of a long prompt, computed by an otherwise idle engine."""

    def __init__(self, model: str) -> None:
        loaded = load_runner(ServeSettings(model=model, device="cpu"))
        assert isinstance(loaded.runner, CpuRunner)
        self._engine, self._count = loaded.runner.model, loaded.limits.chunk_tokens
        self._cache = self._engine.new_cache()

    def last(self, prompt_tokens: int) -> float:
        """Seconds for the prompt's last chunk, the most that a step has to compute besides decoding."""
        blocks = range(-(-prompt_tokens // self._engine.block_tokens))
        draw, seconds = random.Random(0), []
        for start in range(0, prompt_tokens - self._count + 1, self._count):
            ids = [draw.randrange(5, self._engine.config.vocab_size) for _ in range(self._count)]
            started = time.perf_counter()
            self._engine.forward(ids, [self._cache.place(blocks, start, self._count)], [])
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[-NUM_LAST:])


async def stream(
    client: AsyncClient, workload: Workload, number: int, instants: list[float], begun: asyncio.Event
) -> None:
    """Reads a stream and records the instant of each message."""
    prompt = workload.prompt("short", number)
    # With log-probabilities every token has a message, even if it is only a part of a character.
    answer = client.chat_stream(prompt.text, seed=prompt.seed, max_tokens=STREAM_TOKENS, logprobs=True)
    async with answer:
        async for _ in answer:
            instants.append(time.perf_counter())
            begun.set()


async def long_prompt(client: AsyncClient, workload: Workload, number: int) -> tuple[float, float]:
    """Sends the long prompt; returns when it was sent and when its answer began."""
    prompt = workload.prompt("long", number)
    sent = time.perf_counter()
    answer = client.chat_stream(prompt.text, seed=prompt.seed, max_tokens=2)
    async with answer:
        await anext(aiter(answer))
        return sent, time.perf_counter()


async def one_round(
    address: str, short: Workload, long: Workload, number: int, num_streams: int
) -> tuple[float, float]:
    """The median gap before the long prompt comes, and the longest gap while it is computed."""
    async with AsyncClient(address) as client:
        instants: list[list[float]] = [[] for _ in range(num_streams)]
        begun = [asyncio.Event() for _ in range(num_streams)]
        streams = [
            asyncio.create_task(stream(client, short, number * num_streams + place, instants[place], begun[place]))
            for place in range(num_streams)
        ]
        for event in begun:
            await event.wait()
        await asyncio.sleep(BEFORE_SECONDS)
        sent, began = await long_prompt(client, long, number)
        for one in streams:
            one.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    gaps = [(before, after - before) for noted in instants for before, after in pairwise(noted)]
    alone = statistics.median(gap for at, gap in gaps if sent - BEFORE_SECONDS / 2 < at < sent)
    return alone, max(gap for at, gap in gaps if at + gap > sent and at < began)


async def measure(options: argparse.Namespace) -> Section:
    model = str(converted("mid", gguf=()) / "llama")
    chunks, rounds = Chunks(model), []
    async with in_process(model=model, max_sequences=options.streams + 1, prefix_reuse=False) as (_, address):
        async with AsyncClient(address) as client:
            short, long = [Workload(0, await fit_words(client, 0, size)) for size in (32, options.prompt_tokens)]
        for number in range(options.rounds):
            # The chunk alone is timed in each round, since the machine's speed may change.
            chunk = await asyncio.to_thread(chunks.last, options.prompt_tokens)
            alone, worst = await one_round(address, short, long, number, options.streams)
            rounds.append((alone, chunk, worst, worst / (3 * alone + chunk)))
            told = f"gap {alone * 1e3:.0f} ms, chunk {chunk * 1e3:.0f} ms, worst {worst * 1e3:.0f} ms"
            print(f"round {number + 1} of {options.rounds}: {told}", file=sys.stderr)
    alone, chunk, worst, share = [statistics.median(way) for way in zip(*rounds, strict=True)]
    return Section(
        title="A long prompt among running streams",
        about=f"{options.streams} streams run on the mid checkpoint when a prompt of {options.prompt_tokens} tokens "
        "comes: the gap between a stream's messages before, and the worst one until the prompt is computed. "
        f"Medians of {options.rounds} rounds.",
        command=f"python benchmarks/fairness.py --streams {options.streams} --prompt-tokens {options.prompt_tokens}",
        columns=["", "ms"],
        rows=[
            ["gap before", f"{alone * 1e3:.0f}"],
            ["a chunk at the prompt's end, alone", f"{chunk * 1e3:.0f}"],
            ["worst gap", f"{worst * 1e3:.0f}"],
        ],
        goals=[Goal.at_most("worst gap by three steps and a chunk", 1, share)],
        data={"rounds": rounds},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9, help="the median counts (default 9)")
    options = parser.parse_args()
    if options.prompt_tokens < CHUNK_TOKENS["cpu"]:
        parser.error(f"--prompt-tokens is {options.prompt_tokens}; a chunk takes {CHUNK_TOKENS['cpu']}, so take more")
    emit(asyncio.run(measure(options)))


if __name__ == "__main__":
    main()
