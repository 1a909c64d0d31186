"""Tokens per second through gRPC against the engine's door in the same process: what the wire costs.

The server runs in this process, its engine beside the event loop as it does by default. In turn the same number of
requests goes through the door directly, and over the wire from the load generator, a process of its own on the same
cores.

    python benchmarks/wire.py --streams 64 --rounds 5
    python benchmarks/wire.py --max-tokens 256 --rounds 3    # opening streams weighs less
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
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
SERIES = "0"
"""The load generator's name for its first level."""


async def directly(app: App, workload: Workload, num_streams: int, max_tokens: int) -> float:
    """Tokens per second through the engine's door."""
    assert app.servicer.backend is not None
    chat = app.servicer.backend.chat
    prompts = [workload.prompt(SERIES, number) for number in range(num_streams)]
    started = time.perf_counter()

    async def one(text: str, seed: int) -> int:
        ids = await chat.prompt_ids([Message(Role.USER, text)])
        request = TokenRequest("bench", ids, SamplingParams(seed=seed), max_tokens, arrival=time.monotonic())
        with chat.engine.submit(request) as outputs:
            return sum([len(output.tokens) async for output in outputs])

    counts = await asyncio.gather(*(one(prompt.text, prompt.seed) for prompt in prompts))
    return sum(counts) / (time.perf_counter() - started)


async def over_the_wire(
    address: str, seed: int, num_streams: int, max_tokens: int, num_requests: int | None = None
) -> dict[str, Any]:
    """What the load generator found: its level's figures. As many requests as streams, if not told otherwise."""
    requests = num_requests or num_streams
    flags = [f"--concurrency={num_streams}", f"--requests={requests}", "--warmup=0", f"--seed={seed}"]
    sizes = [f"--prompt-tokens={PROMPT_TOKENS}", f"--max-tokens={max_tokens}"]
    command = [sys.executable, "-m", "index_grpc.cli", "bench", "--address", address, *flags, *sizes]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    level: dict[str, Any] = json.loads(output.splitlines()[-1])["levels"][0]
    if level["num_completed"] != requests:
        raise RuntimeError(f"only {level['num_completed']} of {requests} answers came: {level['errors']}")
    return level


async def measure(options: argparse.Namespace) -> Section:
    num_streams, max_tokens, pairs = options.streams, options.max_tokens, []
    directory = converted("mid", gguf=()) / "llama"
    async with in_process(model=str(directory), max_sequences=num_streams, prefix_reuse=False) as (app, address):
        async with AsyncClient(address) as client:
            num_words = await fit_words(client, 0, PROMPT_TOKENS)
        await directly(app, Workload(10**6, num_words), num_streams, max_tokens)  # warms up
        for number in range(options.rounds):
            seed = number
            pair = (
                await directly(app, Workload(seed, num_words), num_streams, max_tokens),
                float((await over_the_wire(address, seed, num_streams, max_tokens))["output_tokens_per_s"]),
            )
            pairs.append(pair)
            print(f"round {number + 1}: {pair[0]:.0f} tokens/s directly, {pair[1]:.0f} over the wire", file=sys.stderr)
    share = statistics.median(wire / direct for direct, wire in pairs)
    medians = [statistics.median(way) for way in zip(*pairs, strict=True)]
    return Section(
        title="The wire" if max_tokens == PROMPT_TOKENS else f"The wire, answers of {max_tokens} tokens",
        about=f"{num_streams} streams at once on the mid checkpoint, {PROMPT_TOKENS} tokens in, {max_tokens} out: "
        "through the engine's door, and over gRPC from another process on the same cores.",
        command=f"python benchmarks/wire.py --streams {num_streams} --max-tokens {max_tokens} "
        f"--rounds {options.rounds}",
        columns=["", "directly", "over the wire", "share"],
        rows=[["tokens/s", f"{medians[0]:.0f}", f"{medians[1]:.0f}", f"{share:.1%}"]],
        goals=[Goal.at_least(f"over the wire at {num_streams} streams", 95, share * 100, " %")],
        data={"rounds": pairs, "share": share},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts (default 5)")
    emit(uvloop.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
