"""gRPC, from the load generator to `index-grpc serve`, in turn with the same work on the engine directly.

Callers make their next call as soon as they are answered, NUM_TURNS calls each, so that the opening of all streams at
once matters little on either side.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving import COMMAND, as_process

from card.door import Door
from card.row import OURS_BESIDE, WIRE, Row
from card.sizes import Sizes

PROMPT_TOKENS = 64
NUM_TURNS = 4
WARMUP_SEED = 10**6


@dataclass
class Pairs:
    """The rounds of a level: tokens a second directly and over gRPC, and seconds to the first token over gRPC."""

    directly: list[float] = field(default_factory=list)
    over_wire: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)

    def rows(self, level: int) -> list[Row]:
        """The medians; the share is that of each round."""
        share = statistics.median(wire / door for door, wire in zip(self.directly, self.over_wire, strict=True))
        wire = Row(WIRE, level, statistics.median(self.over_wire), statistics.median(self.first_token_s), share=share)
        return [Row(OURS_BESIDE, level, statistics.median(self.directly)), wire]


async def rows(door: Door, flags: Sequence[str], sizes: Sizes, num_rounds: int) -> AsyncIterator[Row]:
    """Measures each level for `num_rounds` rounds, in turn with the engine alone."""
    with as_process(*flags) as served:
        for level in sizes.wire_levels:
            pairs = Pairs()
            await _pass(door, served.address, level, sizes.wire_answer_tokens, WARMUP_SEED, Pairs())
            for number in range(num_rounds):
                await _pass(door, served.address, level, sizes.wire_answer_tokens, number, pairs)
                told = f"{pairs.directly[-1]:.0f} tokens/s directly, {pairs.over_wire[-1]:.0f} over the wire"
                print(f"wire at {level}, round {number + 1}: {told}", file=sys.stderr, flush=True)
            for row in pairs.rows(level):
                yield row


async def _pass(door: Door, address: str, level: int, max_tokens: int, seed: int, pairs: Pairs) -> None:
    """A round on both sides, while the engine of the other side is idle."""
    pairs.directly.append(await directly(door, level, max_tokens, seed))
    figures = await over_the_wire(address, level, max_tokens, seed)
    pairs.over_wire.append(float(figures["output_tokens_per_s"]))
    pairs.first_token_s.append(float(figures["time_to_first_token_s"]["p50"]))


async def directly(door: Door, level: int, max_tokens: int, seed: int) -> float:
    """Tokens per second of `level` callers that make NUM_TURNS requests each."""
    prompts = iter(door.prompts(f"wire/{level}/{seed}", [PROMPT_TOKENS] * level * NUM_TURNS))
    started = time.perf_counter()

    async def caller() -> None:
        for prompt in prompts:  # shared: a caller that is free takes the next prompt
            await door.answer(prompt, max_tokens)

    await asyncio.gather(*(caller() for _ in range(level)))
    return level * NUM_TURNS * max_tokens / (time.perf_counter() - started)


async def over_the_wire(address: str, level: int, max_tokens: int, seed: int) -> dict[str, Any]:
    """The load generator's figures of a level."""
    num_requests = level * NUM_TURNS
    flags = [f"--concurrency={level}", f"--requests={num_requests}", "--warmup=0", f"--seed={seed}"]
    sizes = [f"--prompt-tokens={PROMPT_TOKENS}", f"--max-tokens={max_tokens}"]
    command = [*COMMAND, "bench", "--address", address, *flags, *sizes]
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["levels"][0]
    if found["num_completed"] != num_requests:
        raise RuntimeError(f"only {found['num_completed']} of {num_requests} answers came: {found['errors']}")
    return found
