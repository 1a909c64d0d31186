"""The work that cannot be avoided: bytes that a decode step reads, operations that a prompt takes."""

from collections.abc import Sequence

from index_grpc.model.checkpoint import num_parameters
from index_grpc.model.config import ModelConfig, position_bytes

ITEM_BYTES = 2
"""Of a number in bfloat16."""


def weight_bytes(config: ModelConfig) -> int:
    """Weights that a step reads: all but the embedding's, of which it takes a row for each token."""
    return ITEM_BYTES * (num_parameters(config) - config.vocab_size * config.hidden_size)


def step_bytes(config: ModelConfig, num_positions: int) -> int:
    """All that a decode step reads, with so many positions in the contexts together."""
    return weight_bytes(config) + num_positions * position_bytes(config, ITEM_BYTES)


def prompt_flops(config: ModelConfig, lengths: Sequence[int]) -> int:
    """Operations for prompts of these lengths: each token by all weights but embedding and head, and attention."""
    num_weights = num_parameters(config) - 2 * config.vocab_size * config.hidden_size
    width = config.num_layers * config.num_heads * config.head_dim
    return sum(2 * num_weights * length + 2 * length**2 * width for length in lengths)
