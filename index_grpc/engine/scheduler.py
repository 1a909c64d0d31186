"""Decides what each step computes. Never sees a tensor."""

from collections import deque
from dataclasses import dataclass

from index_grpc.contract import TokenRequest
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


class Scheduler:
    """First come, first served: running sequences decode in every step, prompts are computed between, in chunks.

    A sequence runs when it has a slot and its longest possible length is reserved in the cache, so nothing that runs
    can run out of memory later. Chunks end at fixed positions, never where the load of the moment would cut them:
    attention over another chunk differs in its last bits, and a seeded answer must not depend on load.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.free_slots = list(reversed(range(limits.max_sequences)))
        self.num_reserved = 0
        """Cache positions promised to running sequences."""

    def add(self, number: int, request: TokenRequest) -> Sequence:
        """Lines a request up."""
        sequence = Sequence(number, request)
        self.waiting.append(sequence)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out, wherever it stands, and frees what it held."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.free_slots.append(sequence.slot)
        self.num_reserved -= sequence.num_reserved

    def schedule(self, now: float) -> Batch:
        """The next step's batch: one token of each decoding sequence, then prompt chunks within the budget."""
        self._admit(now)
        decoding = [s for s in self.running if s.num_computed >= s.num_prompt]
        batch = [Span(s, s.num_computed, 1) for s in decoding]
        budget = self.limits.chunk_tokens
        for sequence in self.running:
            if sequence.num_computed < sequence.num_prompt:
                chunk = self._next_chunk(sequence)
                if chunk.count > budget:
                    break
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

    def _admit(self, now: float) -> None:
        while self.waiting and self.free_slots:
            needed = self.longest(self.waiting[0])
            if self.num_reserved + needed > self.limits.max_cache_tokens:
                return
            sequence = self.waiting.popleft()
            sequence.slot, sequence.scheduled_at = self.free_slots.pop(), now
            sequence.num_reserved = needed
            self.num_reserved += needed
            self.running.append(sequence)

    def _next_chunk(self, sequence: Sequence) -> Span:
        start, size = sequence.num_computed, self.limits.chunk_tokens
        end = min((start // size + 1) * size, sequence.num_prompt)
        return Span(sequence, start, end - start)
