"""Keys and values: one contiguous row for each sequence, which grows as the sequence does and may outlive it."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from index_grpc.engine.sequence import FIRST_CAPACITY, Sequence, Span
from index_grpc.model.config import ModelConfig
from index_grpc.model.places import Place

CAPACITY_STEP = 16
"""Capacities are multiples of this, so that a register's worth of keys can be read at any position."""


class RowCache:
    """All rows by number, those of running sequences and those kept after: [layers, 2, K, C, D], see Place."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.rows: dict[int, Tensor] = {}

    def release(self, number: int) -> None:
        """Lets a row go, if it has been begun."""
        self.rows.pop(number, None)

    def places(self, batch: Items[Span]) -> list[Place]:
        """Where a batch's tokens are to stand; rows are begun, or made longer, as need be."""
        return [Place(self._row(span.sequence, span.end), span.start, span.count) for span in batch]

    def _row(self, sequence: Sequence, num_tokens: int) -> Tensor:
        """The sequence's row with room for `num_tokens`; begun, if need be, with the prefix that it shares."""
        row = self.rows.get(sequence.row)
        if row is None:
            row = self._new_row(min(max(num_tokens, FIRST_CAPACITY), sequence.num_reserved))
            if sequence.match is not None:
                _copy(self.rows[sequence.match.prefix.row], row, sequence.num_cached)
            self.rows[sequence.row] = row
        elif num_tokens > row.shape[3]:
            # Doubles, so that copying stays linear in all, but not past the longest that it can come to.
            longer = self._new_row(max(num_tokens, min(2 * row.shape[3], sequence.num_reserved)))
            _copy(row, longer, row.shape[3])
            self.rows[sequence.row] = row = longer
        return row

    def _new_row(self, num_tokens: int) -> Tensor:
        config, capacity = self.config, -(-num_tokens // CAPACITY_STEP) * CAPACITY_STEP
        shape = (config.num_layers, 2, config.num_kv_heads, capacity, config.head_dim)
        return torch.empty(shape, device=self.device, dtype=self.dtype)


def position_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that one position's keys and values take over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def _copy(source: Tensor, target: Tensor, num_tokens: int) -> None:
    """Takes over the first `num_tokens` of a row."""
    target[:, :, :, :num_tokens] = source[:, :, :, :num_tokens]
