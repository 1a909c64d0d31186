"""Where the tokens of a batch stand in the cache of keys and values."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Place:
    """`count` tokens of one sequence, side by side in the batch, from position `start` on in the sequence's row."""

    row: Tensor
    """Keys and values, [layers, 2, K, C, D]: K key-value heads, room for C positions, heads of size D."""
    start: int
    count: int

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.start + self.count
