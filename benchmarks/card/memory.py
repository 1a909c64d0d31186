"""Conversations in the room that a small card leaves for keys and values."""

import statistics
from dataclasses import dataclass

from card.door import Door
from card.row import MEMORY, Row
from card.sizes import Sizes
from index_grpc.model.checkpoint import num_parameters
from index_grpc.model.config import ModelConfig

LIMIT = "kv_memory_bytes"
"""The setting that bounds keys and values."""


def room_bytes(sizes: Sizes, config: ModelConfig) -> int:
    """What the small card has for keys and values beside weights in bfloat16."""
    return sizes.small_card_bytes - 2 * num_parameters(config) - sizes.overhead_bytes


@dataclass(frozen=True)
class Crowd:
    """What so many conversations at once got."""

    row: Row
    most_at_once: int
    num_preemptions: int | None
    """None where the engine does not tell."""

    def __str__(self) -> str:
        told = "not told" if self.num_preemptions is None else str(self.num_preemptions)
        return (
            f"{self.row.at_once} conversations in the room of a small card: {self.most_at_once} in a step at most, "
            f"preemptions: {told}"
        )


async def measure(door: Door, sizes: Sizes) -> Crowd:
    """All at once."""
    prompt_tokens, answer_tokens = sizes.conversation_tokens
    count = sizes.num_conversations
    before = _held_preemptions(door)
    found = await door.round(door.prompts("memory", [prompt_tokens] * count), [answer_tokens] * count)
    row = Row(MEMORY, count, found.tokens_per_s, statistics.median(found.first_token_s))
    return Crowd(row, max(step.batch_size for step in door.reports), _preemptions(door, before))


def _preemptions(door: Door, before: int | None) -> int | None:
    """Sequences that had to give their room to others, as the engine counts them, in all or by the step."""
    after = _held_preemptions(door)
    if after is not None and before is not None:
        return after - before
    told = [getattr(step, "num_preemptions", None) for step in door.reports]
    return sum(count for count in told if count is not None) if any(count is not None for count in told) else None


def _held_preemptions(door: Door) -> int | None:
    count: int | None = getattr(door.engine.held, "num_preemptions", None)
    return count
