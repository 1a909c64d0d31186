"""Which blocks of keys and values are taken, and by how many. Never sees a tensor.

A block is a number to the device: room for so many positions of one sequence. Whoever stands in a block holds it, and
several may hold the same one, which nobody writes then.

    blocks: [ held by sequences | idle: only kept prefixes hold them | free ]
"""

from collections.abc import Iterable


class Blocks:
    """Counts the holders of each of `num_blocks` blocks. What was let go last is taken first."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_idle = 0
        """Blocks that only kept prefixes hold."""
        self._free: list[int] = []
        """Those let go, the last one at the end; numbers that were never taken are not among them."""
        self._num_holders: list[int] = []
        self._num_keepers: list[int] = []
        """Of each block's holders, how many are kept prefixes."""

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return self.num_blocks - len(self._num_holders) + len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that a sequence holds, alone or with others."""
        return self.num_blocks - self.num_free - self.num_idle

    def num_holders(self, block: int) -> int:
        """How many hold a block."""
        return self._num_holders[block]

    def is_idle(self, block: int) -> bool:
        """Whether only kept prefixes hold a block."""
        return 0 < self._num_holders[block] == self._num_keepers[block]

    def take(self) -> int:
        """A free block, held once. Raises RuntimeError if there is none."""
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
        """Takes a sequence from the holders of each block; those that nobody holds then are free."""
        for block in blocks:
            self._num_holders[block] -= 1
            self.num_idle += self.is_idle(block)
            if not self._num_holders[block]:
                self._free.append(block)

    def keep(self, blocks: Iterable[int]) -> None:
        """A kept prefix holds the blocks from now on in the place of a sequence."""
        for block in blocks:
            self._num_keepers[block] += 1
            self.num_idle += self.is_idle(block)

    def take_over(self, blocks: Iterable[int]) -> None:
        """A sequence holds the blocks from now on in the place of a kept prefix."""
        for block in blocks:
            self.num_idle -= self.is_idle(block)
            self._num_keepers[block] -= 1
