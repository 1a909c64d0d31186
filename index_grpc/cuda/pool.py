"""The memory of keys and values on the device, in blocks by number.

pool    [blocks, layers, 2, K, BLOCK, D]     keys, rotated, and values
tables  [slots, most blocks of a row]        which blocks a slot's row stands in, in order; int32
"""

import math

import torch

from index_grpc.model.config import ModelConfig

BLOCK_TOKENS = 64
"""Positions of a block."""

LOG2_E = math.log2(math.e)


class BlockPool:
    """All blocks, and which of them each slot reads. Nothing here checks who owns what; the scheduler does.

    One block more than asked for is nobody's: what fills unused places of a step may write there.
    """

    def __init__(
        self, config: ModelConfig, num_blocks: int, num_slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.nobody = num_blocks
        shape = (num_blocks + 1, config.num_layers, 2, config.num_kv_heads, BLOCK_TOKENS, config.head_dim)
        self.pool = torch.empty(shape, device=device, dtype=dtype)
        most_blocks = -(-config.context_length // BLOCK_TOKENS)
        self.tables = torch.zeros(num_slots, most_blocks, dtype=torch.int32, device=device)

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copies a block's first positions."""
        self.pool[target, :, :, :, :num_tokens] = self.pool[source, :, :, :, :num_tokens]
