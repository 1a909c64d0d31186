"""Keys and values: one contiguous row for each sequence, which grows as the sequence does and may outlive it.

Attention reads a sequence's own row at its exact length, so a neighbour can neither slow nor change it. L is the number
of tokens in a row, C its capacity, n the tokens of a span; H, K, D as in `model/llama.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from index_grpc.engine.sequence import Batch, Sequence
from index_grpc.model.config import ModelConfig
from index_grpc.model.llama import Attend

FIRST_CAPACITY = 128


class Row:
    """One sequence's keys and values: for each layer a tensor [2, 1, K, C, D]."""

    def __init__(self, layers: list[Tensor]) -> None:
        self.layers = layers

    def grow(self, num_tokens: int, longest: int) -> None:
        """Makes room for `num_tokens`; doubles, so that copying stays linear in all, but not past the longest."""
        old_capacity = self.layers[0].shape[3]
        if num_tokens <= old_capacity:
            return
        capacity = max(num_tokens, min(2 * old_capacity, longest))
        for index, old in enumerate(self.layers):
            new = old.new_empty(*old.shape[:3], capacity, old.shape[4])
            new[:, :, :, :old_capacity] = old
            self.layers[index] = new

    def copy_from(self, other: "Row", num_tokens: int) -> None:
        """Takes over the first `num_tokens` of another row."""
        for own, others in zip(self.layers, other.layers, strict=True):
            own[:, :, :, :num_tokens] = others[:, :, :, :num_tokens]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span's `count` tokens stand: from `first` on in the batch, from `start` on in the cache row."""

    first: int
    start: int
    count: int
    row: Row
    mask: Tensor | None
    """[n, L] true where a token may look; None for a single token, which may look at all before it."""


class RowCache:
    """All rows by number, those of running sequences and those kept after."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.rows: dict[int, Row] = {}

    def release(self, number: int) -> None:
        """Lets a row go, if it has been begun."""
        self.rows.pop(number, None)

    def attend(self, batch: Batch) -> Attend:
        """Attention for the batch's tokens in order: stores their keys and values, then looks back over each row."""
        places = self._place(batch)
        grouped = self.config.num_heads != self.config.num_kv_heads

        def attend(layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
            attended = torch.empty_like(queries)
            # Views with the tokens in dimension 2, so that all that is left for each sequence is to narrow them.
            looking, seen = queries.transpose(0, 1)[None], attended.transpose(0, 1)[None]  # [1, H, T, D]
            new = keys_values.permute(1, 2, 0, 3)[:, None]  # [2, 1, K, T, D]
            for place in places:
                row, count = place.row.layers[layer], place.count
                row.narrow(3, place.start, count).copy_(new.narrow(3, place.first, count))
                keys, values = row.narrow(3, 0, place.start + count).unbind()  # [1, K, L, D] each
                result = functional.scaled_dot_product_attention(
                    looking.narrow(2, place.first, count), keys, values, attn_mask=place.mask, enable_gqa=grouped
                )
                seen.narrow(2, place.first, count).copy_(result)
            return attended

        return attend

    def _place(self, batch: Batch) -> list[Place]:
        places, first = [], 0
        for span in batch:
            row = self._row(span.sequence, span.end)
            mask = None if span.count == 1 else self._causal_mask(span.start, span.end)
            places.append(Place(first, span.start, span.count, row, mask))
            first += span.count
        return places

    def _row(self, sequence: Sequence, num_tokens: int) -> Row:
        """The sequence's row with room for `num_tokens`; begun, if need be, with the prefix that it shares."""
        row = self.rows.get(sequence.row)
        if row is None:
            row = self._new_row(min(max(num_tokens, FIRST_CAPACITY), sequence.num_reserved))
            if sequence.match is not None:
                row.copy_from(self.rows[sequence.match.prefix.row], sequence.num_cached)
            self.rows[sequence.row] = row
        row.grow(num_tokens, sequence.num_reserved)
        return row

    def _new_row(self, capacity: int) -> Row:
        shape = (2, 1, self.config.num_kv_heads, capacity, self.config.head_dim)
        return Row([torch.empty(shape, device=self.device, dtype=self.dtype) for _ in range(self.config.num_layers)])

    def _causal_mask(self, start: int, end: int) -> Tensor:
        return torch.ones(end - start, end, dtype=torch.bool, device=self.device).tril(diagonal=start)


def position_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that one position's keys and values take over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
