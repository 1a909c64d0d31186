"""Rows of the cache that outlive their sequences, and which of all rows begins as a prompt does. Never sees a tensor.

A conversation's next turn repeats all but its last message, so most of its keys and values are there already if the row
of the turn before was kept. Only whole chunks of a prompt are taken over: a fresh computation would cut at the same
positions and so compute them bit for bit, which keeps a seeded answer the same with reuse and without.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefix:
    """The reusable beginning of a row: the ids of whole chunks of a prompt."""

    row: int
    ids: Sequence[int]
    num_reserved: int
    """Cache positions promised to the row."""


@dataclass(frozen=True, slots=True)
class Match:
    """A prefix, and how many tokens of it a prompt shares, in whole chunks."""

    prefix: Prefix
    num_tokens: int

    @property
    def is_whole(self) -> bool:
        """Whether the prompt goes on where the prefix ends, so that its row can be continued."""
        return self.num_tokens == len(self.prefix.ids)


def longest_match(prompt_ids: Sequence[int], prefixes: Iterable[Prefix], chunk_tokens: int) -> Match | None:
    """The prefix that shares most with a prompt. The prompt's last token is never shared: it gives the first logits."""
    best: Match | None = None
    for prefix in prefixes:
        most, shared = min(len(prefix.ids), len(prompt_ids) - 1), 0
        while (end := shared + chunk_tokens) <= most and prompt_ids[shared:end] == prefix.ids[shared:end]:
            shared = end
        if shared > (best.num_tokens if best else 0):
            best = Match(prefix, shared)
    return best


class KeptRows:
    """Rows whose sequences have ended, least recently used first. They give way when their space is needed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.prefixes: dict[int, Prefix] = {}
        self.num_reserved = 0
        self.evicted: list[int] = []
        """Rows that gave way; the device may still copy from them in this step and then lets them go."""

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
