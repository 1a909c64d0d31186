"""Keys and values in one contiguous row for each sequence, as attention with PyTorch reads them."""

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """All rows by number, those of running sequences and those kept after.

    A row is as long as its sequence can become, from the beginning.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._shape = (config.num_layers, 2, config.num_kv_heads)
        self._head_dim, self._device, self._dtype = config.head_dim, device, dtype
        self._rows: dict[int, Tensor] = {}

    @property
    def rows(self) -> set[int]:
        """Numbers of the rows that are held."""
        return set(self._rows)

    def begin(self, row: int, longest: int, source: int = -1, num_shared: int = 0) -> None:
        """Begins a row, with the first `num_shared` tokens of another, for a sequence of `longest` tokens at most.

        A row that is there goes on, and may become longer than it was meant to.
        """
        old = self._rows.get(row)
        if old is not None and old.shape[3] >= longest:
            return
        new = torch.empty((*self._shape, longest, self._head_dim), device=self._device, dtype=self._dtype)
        beginning = self._rows[source][:, :, :, :num_shared] if num_shared and old is None else old
        if beginning is not None:
            new[:, :, :, : beginning.shape[3]] = beginning
        self._rows[row] = new

    def place(self, row: int, start: int, count: int) -> RowPlace:
        """Where a sequence's next tokens are to stand."""
        return RowPlace(self._rows[row], start, count)

    def release(self, row: int) -> None:
        """Lets a row go, if it has been begun."""
        self._rows.pop(row, None)
