"""Decoding in the engine, by the number of requests at once, compared with the least time to read the memory."""

import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence

from card.door import Door, Round
from card.row import LONG, OURS, Row
from card.sizes import Sizes

StepFloor = Callable[[int], float]
"""The fewest seconds that a step can take, by the positions of all contexts together."""

WARMUP_TOKENS = 8
FEWEST_ROUNDS, MOST_ROUNDS = 2, 20


async def rows(door: Door, sizes: Sizes, levels: Sequence[int], seconds: float, floor: StepFloor) -> AsyncIterator[Row]:
    """Measures each level for about `seconds`, then long contexts."""
    for level in levels:
        lengths = spread(sizes.prompt_tokens, sizes.prompt_tokens, level)
        yield await measure(door, OURS, lengths, sizes.answer_tokens, seconds, floor)
    lengths = spread(sizes.long_prompt_tokens, sizes.prompt_tokens, sizes.long_level)
    yield await measure(door, LONG, lengths, (sizes.long_answer_tokens,) * 2, seconds, floor)


def spread(mean: int, width: int, count: int) -> list[int]:
    """Lengths around a mean, so that sequences that begin together do not take new blocks in the same steps."""
    return [mean - width // 2 + (2 * number + 1) * width // (2 * count) for number in range(count)]


async def measure(
    door: Door, name: str, lengths: Sequence[int], answer_tokens: tuple[int, int], seconds: float, floor: StepFloor
) -> Row:
    """Measures rounds of prompts of these lengths; the lengths of answers are drawn anew in each round."""
    key = f"{name}/{len(lengths)}"
    await door.round(door.prompts(f"{key}/warm-up", lengths), [WARMUP_TOKENS] * len(lengths))
    found: list[Round] = []
    until = time.perf_counter() + seconds
    while len(found) < FEWEST_ROUNDS or (time.perf_counter() < until and len(found) < MOST_ROUNDS):
        draw = random.Random(f"{key}/{len(found)}")
        wanted = [draw.randint(*answer_tokens) for _ in lengths]
        found.append(await door.round(door.prompts(f"{key}/{len(found)}", lengths), wanted))
    return summed_up(name, len(lengths), found, floor)


def summed_up(name: str, at_once: int, found: Sequence[Round], floor: StepFloor) -> Row:
    """The medians; if all sequences decoded in no step, the figures of steps are None."""
    steps = [step for one in found for step in one.steps]
    return Row(
        name,
        at_once,
        tokens_per_s=statistics.median(one.tokens_per_s for one in found),
        first_token_s=statistics.median(first for one in found for first in one.first_token_s),
        step_s=statistics.median(step.seconds for step in steps) if steps else None,
        share=statistics.median(floor(step.num_positions) / step.seconds for step in steps) if steps else None,
    )
