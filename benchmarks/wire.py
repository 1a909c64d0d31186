"""Tokens per second through gRPC against the engine's door in the same process: what the wire costs.

The server runs in this process, its engine beside the event loop as it does by default. In turn the same requests go
through the door directly, and over the wire from the load generator, a process of its own on the same cores. Callers
ask again as soon as they are answered, NUM_TURNS times each, so that most streams are open most of the time.

    python benchmarks/wire.py --streams 64 --rounds 9
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import uvloop
from checkpoints import converted
from index_grpc_client import AsyncClient
from report import Goal, Section, emit
from serving import in_process

from index_grpc.bench.workload import Workload, fit_words
from index_grpc.contract import Message, Role, SamplingParams, TokenRequest
from index_grpc.server.app import App

PROMPT_TOKENS = 64
NUM_TURNS = 4
SERIES = "0"
"""The load generator's name for its first level."""


@dataclass(frozen=True)
class Load:
    """What is asked."""

    num_streams: int
    """Callers: requests that are open at once."""
    max_tokens: int

    @property
    def num_requests(self) -> int:
        """Of all callers together."""
        return self.num_streams * NUM_TURNS


async def directly(app: App, workload: Workload, load: Load) -> float:
    """Tokens per second through the engine's door."""
    assert app.servicer.backend is not None
    chat, numbers = app.servicer.backend.chat, iter(range(load.num_requests))

    async def work() -> int:
        count = 0
        for number in numbers:
            prompt = workload.prompt(SERIES, number)
            ids = await chat.prompt_ids([Message(Role.USER, prompt.text)])
            sampling, now = SamplingParams(seed=prompt.seed), time.monotonic()
            with chat.engine.submit(TokenRequest("bench", ids, sampling, load.max_tokens, arrival=now)) as outputs:
                count += sum([len(output.tokens) async for output in outputs])
        return count

    started = time.perf_counter()
    counts = await asyncio.gather(*(work() for _ in range(load.num_streams)))
    return sum(counts) / (time.perf_counter() - started)


async def over_the_wire(address: str, seed: int, load: Load) -> dict[str, Any]:
    """What the load generator found: its level's figures."""
    flags = [f"--concurrency={load.num_streams}", f"--requests={load.num_requests}", "--warmup=0", f"--seed={seed}"]
    sizes = [f"--prompt-tokens={PROMPT_TOKENS}", f"--max-tokens={load.max_tokens}"]
    command = [sys.executable, "-m", "index_grpc.cli", "bench", "--address", address, *flags, *sizes]
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    level: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["levels"][0]
    if level["num_completed"] != load.num_requests:
        raise RuntimeError(f"only {level['num_completed']} of {load.num_requests} answers came: {level['errors']}")
    return level


async def wire_speed(address: str, seed: int, load: Load) -> float:
    """Tokens per second over the wire."""
    return float((await over_the_wire(address, seed, load))["output_tokens_per_s"])


async def measure(options: argparse.Namespace) -> Section:
    load, pairs = Load(options.streams, options.max_tokens), []
    directory = converted("mid", gguf=()) / "llama"
    async with in_process(model=str(directory), max_sequences=load.num_streams, prefix_reuse=False) as (app, address):
        async with AsyncClient(address) as client:
            num_words = await fit_words(client, 0, PROMPT_TOKENS)
        await directly(app, Workload(10**6, num_words), load)  # warms up
        ways = {
            "directly": lambda seed: directly(app, Workload(seed, num_words), load),
            "over the wire": lambda seed: wire_speed(address, seed, load),
        }
        for number in range(options.rounds):
            order = reversed(ways) if number % 2 else ways  # each goes first in turn: the machine's pace drifts
            found = {way: await ways[way](number) for way in order}
            pairs.append((found["directly"], found["over the wire"]))
            told = ", ".join(f"{tokens_per_s:.0f} {way}" for way, tokens_per_s in found.items())
            print(f"round {number + 1} of {options.rounds}: tokens/s {told}", file=sys.stderr)
    share = statistics.median(wire / direct for direct, wire in pairs)
    medians = [statistics.median(way) for way in zip(*pairs, strict=True)]
    return Section(
        title="The wire",
        about=f"{load.num_streams} callers on the mid checkpoint ask {NUM_TURNS} times each, {PROMPT_TOKENS} tokens in "
        f"and {load.max_tokens} out: through the engine's door, and over gRPC from another process on the same cores.",
        command=f"python benchmarks/wire.py --streams {load.num_streams} --max-tokens {load.max_tokens} "
        f"--rounds {options.rounds}",
        columns=["", "directly", "over the wire", "share"],
        rows=[["tokens/s", f"{medians[0]:.0f}", f"{medians[1]:.0f}", f"{share:.1%}"]],
        goals=[Goal.at_least(f"over the wire at {load.num_streams} streams", 95, share * 100, " %")],
        data={"rounds": pairs, "share": share},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer (default 64)")
    parser.add_argument("--rounds", type=int, default=9, help="the median counts (default 9)")
    emit(uvloop.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
