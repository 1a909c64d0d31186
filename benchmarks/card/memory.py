"""Conversations with the memory that a small GPU leaves for keys and values."""

import statistics
from dataclasses import dataclass

from card.door import Door
from card.row import MEMORY, Row
from card.sizes import Sizes
from index_grpc.model.checkpoint import num_parameters
from index_grpc.model.config import ModelConfig


def room_bytes(sizes: Sizes, config: ModelConfig) -> int:
    """The bytes that the small GPU has for keys and values besides weights in bfloat16."""
    return sizes.small_card_bytes - 2 * num_parameters(config) - sizes.overhead_bytes


@dataclass(frozen=True)
class Crowd:
    """The results of many conversations at once."""

    row: Row
    most_at_once: int
    num_preemptions: int
    """How often a sequence was preempted."""

    def __str__(self) -> str:
        return (
            f"{self.row.at_once} conversations in the room of a small card: {self.most_at_once} in a step at most, "
            f"preemptions: {self.num_preemptions}"
        )


async def measure(door: Door, sizes: Sizes) -> Crowd:
    """Runs all conversations at once."""
    prompt_tokens, answer_tokens = sizes.conversation_tokens
    count = sizes.num_conversations
    found = await door.round(door.prompts("memory", [prompt_tokens] * count), [answer_tokens] * count)
    row = Row(MEMORY, count, found.tokens_per_s, statistics.median(found.first_token_s))
    steps = door.reports
    return Crowd(row, max(step.batch_size for step in steps), sum(step.num_preemptions for step in steps))
