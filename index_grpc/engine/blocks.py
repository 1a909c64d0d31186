"""Counts the holders of each block of the KV cache. Handles no tensors.

A block is room for a fixed number of positions of a sequence; the device knows it by its number. Sequences and kept
prefixes hold blocks. Several may hold the same block; then none of them writes to it.

    blocks: [ held by sequences | idle: only kept prefixes hold them | free ]
"""

from collections.abc import Iterable


class Blocks:
    """Counts the holders of each of `num_blocks` blocks. The block released last is taken first."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_idle = 0
        """Number of blocks that only kept prefixes hold."""
        self._free: list[int] = []
        """Released blocks, the last one at the end; blocks that were never taken are not among them."""
        self._num_holders: list[int] = []
        self._num_keepers: list[int] = []
        """Of each block's holders, how many are kept prefixes."""

    @property
    def num_free(self) -> int:
        """Number of blocks without a holder."""
        return self.num_blocks - len(self._num_holders) + len(self._free)

    @property
    def num_used(self) -> int:
        """Number of blocks that a sequence holds, alone or with others."""
        return self.num_blocks - self.num_free - self.num_idle

    def num_holders(self, block: int) -> int:
        """Returns how many sequences and kept prefixes hold a block."""
        return self._num_holders[block]

    def is_idle(self, block: int) -> bool:
        """Returns whether only kept prefixes hold a block."""
        return 0 < self._num_holders[block] == self._num_keepers[block]

    def take(self) -> int:
        """Takes a free block, which then has one holder. Raises RuntimeError if there is none."""
        if self._free:
            block = self._free.pop()
        elif len(self._num_holders) < self.num_blocks:
            block = len(self._num_holders)
            self._num_holders.append(0)
            self._num_keepers.append(0)
        else:
            raise RuntimeError(f"all {self.num_blocks} blocks are taken")
        self._num_holders[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """Adds a sequence to the holders of each block."""
        for block in blocks:
            self.num_idle -= self.is_idle(block)
            self._num_holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Removes a sequence from the holders of each block; a block without holders is free."""
        for block in blocks:
            self._num_holders[block] -= 1
            self.num_idle += self.is_idle(block)
            if not self._num_holders[block]:
                self._free.append(block)

    def keep(self, blocks: Iterable[int]) -> None:
        """Transfers the blocks from a sequence to a kept prefix."""
        for block in blocks:
            self._num_keepers[block] += 1
            self.num_idle += self.is_idle(block)

    def take_over(self, blocks: Iterable[int]) -> None:
        """Transfers the blocks from a kept prefix to a sequence."""
        for block in blocks:
            self.num_idle -= self.is_idle(block)
            self._num_keepers[block] -= 1
