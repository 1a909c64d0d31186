"""Prefixes that outlive their sequences, and which of all prefixes begins as a prompt does. Never sees a tensor.

A conversation's next turn repeats all but its last message, so most of its keys and values are there already if the
blocks of the turn before were kept. Only what a fresh computation would give bit for bit is taken over, which keeps a
seeded answer the same with reuse and without.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from index_grpc.engine.blocks import Blocks

STRIDE = 64
"""Ids compared at once."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The reusable beginning of a sequence: ids[: num_tokens], whose keys and values stand in the blocks in order."""

    number: int
    """The sequence's."""
    ids: Sequence[int]
    num_tokens: int
    num_prompt: int
    """How many of the ids were a prompt; an answer follows."""
    blocks: list[int]


@dataclass(frozen=True, slots=True)
class Match:
    """A prefix, and how many tokens of it a prompt shares."""

    prefix: Prefix
    num_tokens: int

    @property
    def can_continue(self) -> bool:
        """Whether the prefix can be continued: all of it is shared, or all but the end of an answer.

        The new prompt may hold another version of that answer, such as one cut at a stop string.
        """
        return self.num_tokens >= min(self.prefix.num_tokens, self.prefix.num_prompt)

    def cut(self, multiple: int) -> "Match | None":
        """As much of it as is a multiple of so many tokens, if anything."""
        num_tokens = self.num_tokens // multiple * multiple
        return replace(self, num_tokens=num_tokens) if num_tokens else None


def longest_match(prompt_ids: Sequence[int], prefixes: Iterable[Prefix], multiple: int) -> Match | None:
    """The prefix that shares most with a prompt, in multiples of so many tokens.

    The prompt's last token is never shared: it gives the first logits.
    """
    best: Match | None = None
    known = 0
    for prefix in prefixes:
        most = min(prefix.num_tokens, len(prompt_ids) - 1) // multiple * multiple
        # Many begin with the same instructions. Who shares more than the best so far shares the next token, too.
        if most <= known or prompt_ids[known] != prefix.ids[known]:
            continue
        shared = num_equal(prompt_ids, prefix.ids, most) // multiple * multiple
        if shared > known:
            best, known = Match(prefix, shared), shared
    return best


def num_equal(ids: Sequence[int], others: Sequence[int], most: int) -> int:
    """How many ids at the beginning are the same, up to `most`, which neither is shorter than."""
    start = 0
    while start < most and ids[start : start + STRIDE] == others[start : start + STRIDE]:
        start += STRIDE
    end = min(start + STRIDE, most)
    while start < end and ids[start] == others[start]:
        start += 1
    return min(start, most)


class KeptPrefixes:
    """Prefixes whose sequences have ended, least recently used first. They give way when their blocks are needed."""

    def __init__(self, blocks: Blocks, most: int) -> None:
        self.most = most
        self._blocks = blocks
        self._prefixes: dict[int, Prefix] = {}

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._prefixes.values())

    def __len__(self) -> int:
        return len(self._prefixes)

    def holds(self, prefix: Prefix) -> bool:
        """Whether a prefix is among them."""
        return prefix.number in self._prefixes

    def keep(self, prefix: Prefix) -> None:
        """Keeps a prefix, as the most recently used, in the place of its sequence."""
        self._prefixes[prefix.number] = prefix
        self._blocks.keep(prefix.blocks)
        while len(self) > self.most:
            self.evict()

    def take(self, prefix: Prefix) -> list[int]:
        """Hands a prefix's blocks over to a sequence that continues in them."""
        del self._prefixes[prefix.number]
        self._blocks.take_over(prefix.blocks)
        return prefix.blocks

    def touch(self, prefix: Prefix) -> None:
        """Makes a prefix the most recently used."""
        self._prefixes[prefix.number] = self._prefixes.pop(prefix.number)

    def evict(self) -> None:
        """Lets the least recently used one go."""
        oldest = next(iter(self))
        self._blocks.release(self.take(oldest))
