"""The memory of keys and values on the device, in blocks by number."""

import math

import torch

from index_grpc.contract import Copy

BLOCK_TOKENS = 64
"""Positions of a block."""

LOG2_E = math.log2(math.e)
"""Attention's exponentials are powers of two; so much larger are its scores."""


class BlockPool:
    """All blocks, and which of them each slot reads. Nothing here checks who owns what; the scheduler does.

    pool    [blocks, layers, 2, K, BLOCK_TOKENS, D]     keys, rotated, and values
    tables  [slots, most blocks of a sequence]          which blocks a slot's sequence stands in, in order; int32

    One block more than asked for is nobody's: what fills unused places of a step may write there.
    """

    def __init__(
        self,
        num_blocks: int,
        num_slots: int,
        context_length: int,
        *,
        heads: tuple[int, int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`heads`: layers, key-value heads of each, and their size."""
        num_layers, num_kv_heads, head_dim = heads
        shape = (num_blocks + 1, num_layers, 2, num_kv_heads, BLOCK_TOKENS, head_dim)
        self.pool = torch.empty(shape, device=device, dtype=dtype)
        self.nobody = num_blocks
        most_blocks = -(-context_length // BLOCK_TOKENS)
        self.tables = torch.full((num_slots, most_blocks), self.nobody, dtype=torch.int32, device=device)

    def copy(self, copy: Copy) -> None:
        """Has the first positions of a block stand in another one too."""
        source, target = self.pool[copy.source], self.pool[copy.target]
        target[:, :, :, : copy.num_tokens] = source[:, :, :, : copy.num_tokens]
