"""The KV cache on the device, in numbered blocks."""

import math

import torch

from index_grpc.datatypes import Copy

BLOCK_TOKENS = 64
"""Positions of a block."""

LOG2_E = math.log2(math.e)
"""Factor of attention's scores, as its exponentials are computed as powers of two."""


class BlockPool:
    """All blocks, and which of them each slot reads. The scheduler decides who owns a block; nothing here checks it.

    pool    [blocks, layers, 2, K, BLOCK_TOKENS, D]     keys, rotated, and values
    tables  [slots, most blocks of a sequence]          the blocks of each slot's sequence, in order; int32

    There is one block more than asked for, which no sequence owns: unused rows of a step may write there.
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
        """`heads` has the number of layers, of key-value heads in each, and the size of a head."""
        num_layers, num_kv_heads, head_dim = heads
        shape = (num_blocks + 1, num_layers, 2, num_kv_heads, BLOCK_TOKENS, head_dim)
        self.pool = torch.empty(shape, device=device, dtype=dtype)
        self.nobody = num_blocks
        most_blocks = -(-context_length // BLOCK_TOKENS)
        self.tables = torch.full((num_slots, most_blocks), self.nobody, dtype=torch.int32, device=device)

    def copy(self, copy: Copy) -> None:
        """Copies the first positions of a block to another one."""
        source, target = self.pool[copy.source], self.pool[copy.target]
        target[:, :, :, : copy.num_tokens] = source[:, :, :, : copy.num_tokens]
