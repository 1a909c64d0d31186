"""The KV cache for attention with PyTorch: one contiguous row of keys and values for each sequence.

A row is a block with room for a whole context, so a sequence holds only one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from index_grpc.datatypes import Copy
from index_grpc.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class RowPlace:
    """`count` tokens of one sequence, side by side in the batch, from position `start` on in the sequence's row."""

    row: Tensor
    """Keys and values, [layers, 2, K, C, D]: K key-value heads, room for C positions, heads of size D."""
    start: int
    count: int

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.start + self.count


class RowCache:
    """All rows by number. A row is allocated at its first use; the system gives memory only for what is written."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._shape = (config.num_layers, 2, config.num_kv_heads, config.context_length, config.head_dim)
        self._device, self._dtype = device, dtype
        self._rows: dict[int, Tensor] = {}

    def place(self, blocks: Sequence[int], start: int, count: int) -> RowPlace:
        """Returns the place of a sequence's next `count` tokens, from position `start` on."""
        (block,) = blocks
        return RowPlace(self._row(block), start, count)

    def copy(self, copy: Copy) -> None:
        """Copies the first positions of a row to another one."""
        source, target = self._row(copy.source), self._row(copy.target)
        target[:, :, :, : copy.num_tokens] = source[:, :, :, : copy.num_tokens]

    def _row(self, number: int) -> Tensor:
        if number not in self._rows:
            self._rows[number] = torch.empty(self._shape, device=self._device, dtype=self._dtype)
        return self._rows[number]
