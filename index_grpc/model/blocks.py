"""Keys and values in blocks of positions, as the native kernels read them.

A row is a list of blocks. It grows by a block, never by copying, and rows that begin the same share the blocks of their
beginning. A block that is let go is used again before memory is taken from the system.

    row 1  [ b0 | b1 | b2 ]
    row 2  [ b0 | b1 | b5 | b6 ]      shares two blocks with row 1
"""

import ctypes
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from index_grpc.model.config import ModelConfig
from index_grpc.model.memory import in_large_pages
from index_grpc.native.library import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """`count` tokens of one sequence, side by side in the batch, from position `start` on in the sequence's row."""

    blocks: Any
    """A C array of the blocks' addresses."""
    start: int
    count: int


class BlockCache:
    """All rows by number, those of running sequences and those kept after."""

    def __init__(self, config: ModelConfig) -> None:
        self._shape = (config.num_layers, 2, config.num_kv_heads, BLOCK_TOKENS, config.head_dim)
        self._blocks: list[Tensor] = []
        self._free: list[int] = []
        self._num_users: Counter[int] = Counter()
        """In how many rows each block stands."""
        self._rows: dict[int, list[int]] = {}
        self._addresses: dict[int, Any] = {}

    @property
    def rows(self) -> set[int]:
        """Numbers of the rows that are held."""
        return set(self._rows)

    @property
    def num_blocks_in_use(self) -> int:
        """Blocks that stand in a row."""
        return len(self._blocks) - len(self._free)

    def begin(self, row: int, longest: int, source: int = -1, num_shared: int = 0) -> None:
        """Begins a row, with the first `num_shared` tokens of another; a row that is there goes on after its own."""
        num_blocks = -(-num_shared // BLOCK_TOKENS)
        if row in self._rows:
            self._shorten(row, num_blocks)
            return
        self._rows[row] = shared = self._rows[source][:num_blocks] if num_shared else []
        self._num_users.update(shared)
        self._address(row)

    def place(self, row: int, start: int, count: int) -> BlockPlace:
        """Where a sequence's next tokens are to stand: in blocks that no other row reads."""
        blocks = self._rows[row]
        first, end = start // BLOCK_TOKENS, -(-(start + count) // BLOCK_TOKENS)
        changed = [at for at in range(first, min(end, len(blocks))) if self._num_users[blocks[at]] > 1]
        for at in changed:
            blocks[at] = self._own_copy(blocks[at])
        blocks += [self._take() for _ in range(len(blocks), end)]
        if changed or len(blocks) != len(self._addresses[row]):
            self._address(row)
        return BlockPlace(self._addresses[row], start, count)

    def release(self, row: int) -> None:
        """Lets a row go, if it has been begun."""
        for block in self._rows.pop(row, ()):
            self._let_go(block)
        self._addresses.pop(row, None)

    def _shorten(self, row: int, num_blocks: int) -> None:
        """Lets go what an earlier sequence wrote behind the part that is taken over."""
        blocks = self._rows[row]
        for block in blocks[num_blocks:]:
            self._let_go(block)
        del blocks[num_blocks:]
        self._address(row)

    def _take(self) -> int:
        if not self._free:
            self._blocks.append(in_large_pages(torch.empty(self._shape)))
            self._free.append(len(self._blocks) - 1)
        block = self._free.pop()
        self._num_users[block] = 1
        return block

    def _let_go(self, block: int) -> None:
        self._num_users[block] -= 1
        if not self._num_users[block]:
            self._free.append(block)

    def _own_copy(self, block: int) -> int:
        copy = self._take()
        self._blocks[copy].copy_(self._blocks[block])
        self._let_go(block)
        return copy

    def _address(self, row: int) -> None:
        blocks = self._rows[row]
        self._addresses[row] = (ctypes.c_void_p * len(blocks))(*(self._blocks[block].data_ptr() for block in blocks))
