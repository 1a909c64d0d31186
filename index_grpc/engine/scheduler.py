"""Decides what each step computes. Never sees a tensor."""

import itertools
from collections import deque
from dataclasses import dataclass

from index_grpc.contract import TokenRequest
from index_grpc.engine.prefixes import KeptRows, Match, Prefix, longest_match
from index_grpc.engine.sequence import Batch, Sequence, Span


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may hold at once. `max_cache_tokens` positions of keys and values fit in memory."""

    context_length: int
    max_sequences: int
    max_waiting: int
    max_cache_tokens: int
    chunk_tokens: int
    """Prompts are computed in chunks that end at multiples of this, and one step computes no more prompt tokens."""
    prefix_reuse: bool = True
    """Whether rows are kept for prompts that begin the same."""


class Scheduler:
    """First come, first served: running sequences decode in every step, prompts are computed between, in chunks.

    A sequence runs when it has a slot and its longest possible length is reserved in the cache, so nothing that runs
    can run out of memory later. Chunks end at fixed positions, never where the load of the moment would cut them:
    attention over another chunk differs in its last bits, and a seeded answer must not depend on load.

    cache positions: [ promised to running sequences | promised to kept rows | free ]
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.free_slots = list(reversed(range(limits.max_sequences)))
        self.num_reserved = 0
        """Cache positions promised to running sequences."""
        self.kept = KeptRows(most=2 * limits.max_sequences if limits.prefix_reuse else 0)
        self._rows = itertools.count()

    def add(self, number: int, request: TokenRequest) -> Sequence:
        """Lines a request up."""
        sequence = Sequence(number, request)
        self.waiting.append(sequence)
        return sequence

    def remove(self, sequence: Sequence, keep: bool) -> None:
        """Takes a sequence out, wherever it stands, and frees what it held; `keep` lets its prefix be reused."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.free_slots.append(sequence.slot)
        self.num_reserved -= sequence.num_reserved
        prefix = self._prefix(sequence)
        if keep and prefix.ids:
            self.kept.keep(prefix)
        else:
            self.kept.evicted.append(sequence.row)

    def schedule(self, now: float) -> Batch:
        """The next step's batch: one token of each decoding sequence, then prompt chunks within the budget."""
        batch = [Span(s, s.num_computed, 1) for s in self.running if s.num_computed >= s.num_prompt]
        prefilling = deque(s for s in self.running if s.num_computed < s.num_prompt)
        budget = self.limits.chunk_tokens
        while budget and (sequence := prefilling.popleft() if prefilling else self._next_admissible()):
            chunk = self._next_chunk(sequence)
            if chunk.count > budget:
                break
            if sequence.slot < 0:
                self._admit(sequence, now)
            budget -= chunk.count
            batch.append(chunk)
        return batch

    def longest(self, sequence: Sequence) -> int:
        """The most tokens the sequence can come to."""
        return min(sequence.num_prompt + sequence.request.max_tokens, self.limits.context_length)

    def check_books(self) -> None:
        """With nothing running, everything must be free; raises if something leaked."""
        leaked = self.limits.max_sequences - len(self.free_slots)
        if self.running or self.waiting or leaked or self.num_reserved:
            raise RuntimeError(f"idle, yet {leaked} slots and {self.num_reserved} cache positions are not free")

    def _next_admissible(self) -> Sequence | None:
        """The first in line, if there is a slot and room for it, matched with the best row to begin from."""
        if not (self.waiting and self.free_slots):
            return None
        sequence = self.waiting[0]
        if self.num_reserved + self.longest(sequence) > self.limits.max_cache_tokens:
            return None
        sequence.match = self._longest_match(sequence)
        sequence.num_computed = sequence.num_cached
        return sequence

    def _admit(self, sequence: Sequence, now: float) -> None:
        self.waiting.popleft()
        self.running.append(sequence)
        sequence.slot, sequence.scheduled_at = self.free_slots.pop(), now
        self._give_row(sequence)
        self.num_reserved += sequence.num_reserved
        self.kept.shrink_to(self.limits.max_cache_tokens - self.num_reserved)

    def _give_row(self, sequence: Sequence) -> None:
        """Continues in the matching row if it ends where the prompt goes on and nobody runs in it; else begins one."""
        sequence.num_reserved = self.longest(sequence)
        sequence.row = next(self._rows)
        match = sequence.match
        if match is None or not self.kept.holds(match.prefix.row):
            return
        if match.is_whole:
            prefix = self.kept.take(match.prefix.row)
            sequence.row, sequence.num_reserved = prefix.row, max(sequence.num_reserved, prefix.num_reserved)
        else:
            self.kept.touch(match.prefix.row)

    def _longest_match(self, sequence: Sequence) -> Match | None:
        if not self.limits.prefix_reuse:
            return None
        prefixes = itertools.chain(self.kept.prefixes.values(), map(self._prefix, self.running))
        return longest_match(sequence.ids, prefixes, self.limits.chunk_tokens)

    def _prefix(self, sequence: Sequence) -> Prefix:
        """What of a sequence's row can be reused: the whole chunks of its prompt that are computed."""
        computed = min(sequence.num_computed, sequence.num_prompt)
        whole_chunks = computed // self.limits.chunk_tokens * self.limits.chunk_tokens
        return Prefix(sequence.row, sequence.ids[:whole_chunks], sequence.num_reserved)

    def _next_chunk(self, sequence: Sequence) -> Span:
        start, size = sequence.num_computed, self.limits.chunk_tokens
        end = min((start // size + 1) * size, sequence.num_prompt)
        return Span(sequence, start, end - start)
