"""The KV cache of the native kernels, in blocks of positions.

The scheduler decides which sequence holds which blocks; here a block is only memory with a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from index_grpc.datatypes import Copy
from index_grpc.model.config import ModelConfig
from index_grpc.model.memory import in_large_pages
from index_grpc.native.library import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """`count` tokens of one sequence, side by side in the batch, from position `start` on in the sequence's blocks."""

    addresses: list[int]
    """The addresses of all the sequence's blocks."""
    start: int
    count: int


class BlockCache:
    """All blocks by number. A block's memory is allocated when the block is first used, and then kept."""

    def __init__(self, config: ModelConfig) -> None:
        self._shape = (config.num_layers, 2, config.num_kv_heads, BLOCK_TOKENS, config.head_dim)
        self._blocks: dict[int, Tensor] = {}
        self._addresses: dict[int, int] = {}

    def place(self, blocks: Sequence[int], start: int, count: int) -> BlockPlace:
        """Returns the place of a sequence's next `count` tokens, from position `start` on."""
        for block in blocks[start // BLOCK_TOKENS :]:
            self._block(block)
        return BlockPlace([self._addresses[block] for block in blocks], start, count)

    def copy(self, copy: Copy) -> None:
        """Copies the first positions of a block to another one."""
        source, target = self._block(copy.source), self._block(copy.target)
        target[:, :, :, : copy.num_tokens] = source[:, :, :, : copy.num_tokens]

    def _block(self, number: int) -> Tensor:
        """Returns a block [layers, 2, K, BLOCK_TOKENS, D]: keys and values of K heads of size D."""
        if number not in self._blocks:
            self._blocks[number] = block = in_large_pages(torch.empty(self._shape))
            self._addresses[number] = block.data_ptr()
        return self._blocks[number]
