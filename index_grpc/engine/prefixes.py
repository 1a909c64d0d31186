"""Prefixes kept after their sequences end, and the search for the one that matches a prompt best. Handles no tensors.

The prompt of a conversation's next turn is new only in its last message, so if the blocks of the turn before were kept,
most of its keys and values exist already. Only values that a fresh computation would give bit for bit are reused, so a
seeded answer is the same with and without reuse.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from index_grpc.engine.blocks import Blocks

STRIDE = 64
"""Number of ids compared at once."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The reusable beginning of a sequence: ids[: num_tokens], whose keys and values are in the blocks in order."""

    number: int
    """The sequence's number."""
    ids: Sequence[int]
    num_tokens: int
    num_prompt: int
    """How many of the ids are the prompt; the others are the answer."""
    blocks: list[int]


@dataclass(frozen=True, slots=True)
class Match:
    """A prefix, and how many of its first tokens a prompt shares."""

    prefix: Prefix
    num_tokens: int

    @property
    def can_continue(self) -> bool:
        """Whether a sequence may continue in the prefix's own blocks: all of it is shared, or at least its prompt.

        The new prompt may contain another version of the answer, such as one cut at a stop string.
        """
        return self.num_tokens >= min(self.prefix.num_tokens, self.prefix.num_prompt)

    def cut(self, multiple: int) -> "Match | None":
        """Returns the match cut down to a multiple of `multiple` tokens, or None if nothing is left."""
        num_tokens = self.num_tokens // multiple * multiple
        return replace(self, num_tokens=num_tokens) if num_tokens else None


def longest_match(prompt_ids: Sequence[int], prefixes: Iterable[Prefix], multiple: int) -> Match | None:
    """Returns the prefix that shares most tokens with a prompt, counted in multiples of `multiple` tokens.

    The prompt's last token is never shared: it is computed to give the first logits.
    """
    best: Match | None = None
    known = 0
    for prefix in prefixes:
        most = min(prefix.num_tokens, len(prompt_ids) - 1) // multiple * multiple
        # Many prefixes share their first tokens. One that shares more than the best so far shares the next token too.
        if most <= known or prompt_ids[known] != prefix.ids[known]:
            continue
        shared = num_equal(prompt_ids, prefix.ids, most) // multiple * multiple
        if shared > known:
            best, known = Match(prefix, shared), shared
    return best


def num_equal(ids: Sequence[int], others: Sequence[int], most: int) -> int:
    """Counts the equal ids at the beginning, up to `most`. Neither list may be shorter than `most`."""
    start = 0
    while start < most and ids[start : start + STRIDE] == others[start : start + STRIDE]:
        start += STRIDE
    end = min(start + STRIDE, most)
    while start < end and ids[start] == others[start]:
        start += 1
    return min(start, most)


class KeptPrefixes:
    """Prefixes whose sequences have ended, least recently used first. They are evicted when blocks are needed."""

    def __init__(self, blocks: Blocks, most: int) -> None:
        self.most = most
        self._blocks = blocks
        self._prefixes: dict[int, Prefix] = {}

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._prefixes.values())

    def __len__(self) -> int:
        return len(self._prefixes)

    def holds(self, prefix: Prefix) -> bool:
        """Returns whether a prefix is kept."""
        return prefix.number in self._prefixes

    def keep(self, prefix: Prefix) -> None:
        """Keeps a prefix as the most recently used; it takes over the blocks from its sequence."""
        self._prefixes[prefix.number] = prefix
        self._blocks.keep(prefix.blocks)
        while len(self) > self.most:
            self.evict()

    def take(self, prefix: Prefix) -> list[int]:
        """Removes a prefix and hands its blocks over to a sequence that continues in them."""
        del self._prefixes[prefix.number]
        self._blocks.take_over(prefix.blocks)
        return prefix.blocks

    def touch(self, prefix: Prefix) -> None:
        """Makes a prefix the most recently used."""
        self._prefixes[prefix.number] = self._prefixes.pop(prefix.number)

    def evict(self) -> None:
        """Removes the least recently used prefix and releases its blocks."""
        oldest = next(iter(self))
        self._blocks.release(self.take(oldest))
