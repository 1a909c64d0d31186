"""Assigns blocks of the KV cache to running sequences and to prefixes kept after them. Handles no tensors.

A sequence whose first tokens equal a prefix's shares the prefix's full blocks. The block in which the common tokens end
is copied, unless the sequence continues the prefix and nothing else holds that block.

    kept     [ b0 | b1 | b2 ]
    sequence [ b0 | b1 | b5 | b6 ]      shares two blocks; a part of b2 was copied to b5
"""

from collections import Counter
from math import lcm

from index_grpc.datatypes import Copy
from index_grpc.engine.blocks import Blocks
from index_grpc.engine.prefixes import KeptPrefixes, Match, Prefix
from index_grpc.engine.sequence import Sequence


class BlockAllocator:
    """Gives blocks to sequences and takes them back. Evicts kept prefixes, least recently used first, as needed."""

    def __init__(self, num_blocks: int, block_tokens: int, alignment_tokens: int, most_kept: int) -> None:
        self.blocks, self._block_tokens, self._alignment_tokens = Blocks(num_blocks), block_tokens, alignment_tokens
        self.kept = KeptPrefixes(self.blocks, most_kept)
        self._sources: list[int] = []
        """Blocks that the last scheduled step copies from; nothing overwrites them until that step is launched."""

    def num_for(self, num_tokens: int) -> int:
        """Returns how many blocks `num_tokens` positions need."""
        return -(-num_tokens // self._block_tokens)

    def fitting(self, match: Match | None, num_blocks: int, num_promised: int) -> tuple[bool, Match | None]:
        """Returns whether `num_blocks` blocks are available besides those promised to others, and the match to use.

        The match is cut to whole blocks if there is no room to copy its last, partly filled block.
        """
        short = match and match.cut(lcm(self._block_tokens, self._alignment_tokens))
        for candidate in (match, short):
            if self._num_new(candidate, num_blocks) + num_promised <= self.blocks.num_free + self.blocks.num_idle:
                return True, candidate
        return False, None

    def begin(self, sequence: Sequence, match: Match) -> list[Copy]:
        """Lets a sequence begin with the match's tokens. Returns the copies to make before its first step."""
        prefix, (num_whole, rest) = match.prefix, divmod(match.num_tokens, self._block_tokens)
        num_shared = num_whole + bool(rest)
        if self._continues(match):
            blocks = self.kept.take(prefix)
            self.blocks.release(blocks[num_shared:])
        else:
            if self.kept.holds(prefix):
                self.kept.touch(prefix)
            blocks = prefix.blocks
            self.blocks.share(blocks[:num_shared])
        sequence.blocks = blocks[:num_shared]
        return self._copy_last(sequence, rest) if rest else []

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Gives a sequence blocks for `num_tokens` positions. If too few are left, gives it those and returns False."""
        for _ in range(self.num_for(num_tokens) - len(sequence.blocks)):
            if not self._has_free():
                return False
            sequence.blocks.append(self.blocks.take())
        return True

    def keep(self, sequence: Sequence, prefix: Prefix) -> None:
        """Keeps an ended sequence's prefix and releases its other blocks."""
        self.blocks.release(sequence.blocks[len(prefix.blocks) :])
        self.kept.keep(prefix)
        sequence.blocks = []

    def let_go(self, sequence: Sequence) -> None:
        """Releases all blocks of a sequence."""
        self.blocks.release(sequence.blocks)
        sequence.blocks = []

    def let_sources_go(self) -> None:
        """Releases the blocks that the last step copied from. Call it once that step is launched."""
        self.blocks.release(self._sources)
        self._sources = []

    def check_for_leaks(self) -> None:
        """Checks, when nothing runs, that only kept prefixes hold blocks. Raises RuntimeError if something leaked."""
        self.let_sources_go()
        held = Counter(block for prefix in self.kept for block in prefix.blocks)
        is_right = all(self.blocks.num_holders(block) == count for block, count in held.items())
        if self.blocks.num_used or self.blocks.num_idle != len(held) or not is_right:
            raise RuntimeError(f"idle, yet {self.blocks.num_used} blocks are not free, or kept ones are miscounted")

    def _num_new(self, match: Match | None, num_blocks: int) -> int:
        """Returns how many free or idle blocks a sequence of `num_blocks` takes up if it begins with the match."""
        if match is None:
            return num_blocks
        blocks, (num_whole, rest) = match.prefix.blocks, divmod(match.num_tokens, self._block_tokens)
        num_shared = num_whole + bool(rest)
        copies = rest and not (self._continues(match) and self.blocks.num_holders(blocks[num_whole]) == 1)
        return num_blocks - num_shared + bool(copies) + sum(map(self.blocks.is_idle, blocks[:num_shared]))

    def _continues(self, match: Match) -> bool:
        return match.can_continue and self.kept.holds(match.prefix)

    def _copy_last(self, sequence: Sequence, num_tokens: int) -> list[Copy]:
        """If others hold a sequence's last block too, copies its first `num_tokens` positions to a block of its own."""
        source = sequence.blocks[-1]
        if self.blocks.num_holders(source) == 1:
            return []
        self._sources.append(source)
        self._has_free()
        sequence.blocks[-1] = target = self.blocks.take()
        return [Copy(source, target, num_tokens)]

    def _has_free(self) -> bool:
        """Returns whether there is a free block; evicts kept prefixes until there is one."""
        while not self.blocks.num_free and self.kept:
            self.kept.evict()
        return self.blocks.num_free > 0
