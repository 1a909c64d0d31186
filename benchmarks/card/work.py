"""The least work that is necessary: the bytes that a decode step reads, and the operations of a prompt."""

from collections.abc import Sequence

from index_grpc.model.checkpoint import num_parameters
from index_grpc.model.config import ModelConfig, position_bytes

ITEM_BYTES = 2
"""Bytes of a number in bfloat16."""


def weight_bytes(config: ModelConfig) -> int:
    """Bytes of the weights that a step reads: all except the embedding, of which it reads a row for each token."""
    return ITEM_BYTES * (num_parameters(config) - config.vocab_size * config.hidden_size)


def step_bytes(config: ModelConfig, num_positions: int) -> int:
    """All bytes that a decode step reads, if the contexts together have `num_positions` positions."""
    return weight_bytes(config) + num_positions * position_bytes(config, ITEM_BYTES)


def prompt_flops(config: ModelConfig, lengths: Sequence[int]) -> int:
    """Operations for prompts of these lengths: the products of each token with all weights except embedding and head,
    and attention."""
    num_weights = num_parameters(config) - 2 * config.vocab_size * config.hidden_size
    width = config.num_layers * config.num_heads * config.head_dim
    return sum(2 * num_weights * length + 2 * length**2 * width for length in lengths)
