"""Rows of the cache that outlive their sequences, and which of all rows begins as a prompt does. Never sees a tensor.

A conversation's next turn repeats all but its last message, so most of its keys and values are there already if the row
of the turn before was kept. Only what a fresh computation would give bit for bit is taken over, which keeps a seeded
answer the same with reuse and without.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BLOCK = 64
"""Ids compared at once."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The reusable beginning of a row: ids[: num_tokens]."""

    row: int
    ids: Sequence[int]
    num_tokens: int
    num_prompt: int
    """How many of the ids were a prompt; an answer follows."""
    num_reserved: int
    """Cache positions promised to the row."""


@dataclass(frozen=True, slots=True)
class Match:
    """A prefix, and how many tokens of it a prompt shares."""

    prefix: Prefix
    num_tokens: int

    @property
    def is_whole(self) -> bool:
        """Whether the row can be continued: all of the prefix is shared, or all but the end of an answer.

        The prompt brings its own version of that answer, as one that was cut at a stop string.
        """
        return self.num_tokens >= min(self.prefix.num_tokens, self.prefix.num_prompt)


def longest_match(prompt_ids: Sequence[int], prefixes: Iterable[Prefix], grain_tokens: int) -> Match | None:
    """The prefix that shares most with a prompt, in multiples of the grain.

    The prompt's last token is never shared: it gives the first logits.
    """
    best: Match | None = None
    for prefix in prefixes:
        most = min(prefix.num_tokens, len(prompt_ids) - 1)
        if most <= (best.num_tokens if best else 0):
            continue
        shared = num_equal(prompt_ids, prefix.ids, most) // grain_tokens * grain_tokens
        if shared > (best.num_tokens if best else 0):
            best = Match(prefix, shared)
    return best


def num_equal(ids: Sequence[int], others: Sequence[int], most: int) -> int:
    """How many ids at the beginning are the same, up to `most`, which neither is shorter than."""
    start = 0
    while start < most and ids[start : start + BLOCK] == others[start : start + BLOCK]:
        start += BLOCK
    end = min(start + BLOCK, most)
    while start < end and ids[start] == others[start]:
        start += 1
    return min(start, most)


class KeptRows:
    """Rows whose sequences have ended, least recently used first. They give way when their space is needed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.prefixes: dict[int, Prefix] = {}
        self.num_reserved = 0
        self.evicted: list[int] = []
        """Rows that gave way; the device may still copy from them in this step and then lets them go."""

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self.prefixes.values())

    def holds(self, row: int) -> bool:
        """Whether a row is among them."""
        return row in self.prefixes

    def keep(self, prefix: Prefix) -> None:
        """Keeps a row as the most recently used."""
        self.prefixes[prefix.row] = prefix
        self.num_reserved += prefix.num_reserved
        self.shrink_to(self.num_reserved)

    def take(self, row: int) -> Prefix:
        """Hands a row over to a sequence that continues in it."""
        prefix = self.prefixes.pop(row)
        self.num_reserved -= prefix.num_reserved
        return prefix

    def touch(self, row: int) -> None:
        """Makes a row the most recently used."""
        self.prefixes[row] = self.prefixes.pop(row)

    def shrink_to(self, num_reserved: int) -> None:
        """Evicts until no more than this many positions, and no more than `most` rows, are held."""
        while self.num_reserved > num_reserved or len(self.prefixes) > self.most:
            oldest = next(iter(self.prefixes))
            self.take(oldest)
            self.evicted.append(oldest)

    def take_evicted(self) -> list[int]:
        """The rows to let go, once."""
        evicted, self.evicted = self.evicted, []
        return evicted
