"""Decides what each step computes. Never sees a tensor."""

import itertools
from collections import OrderedDict, deque
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
    """The most prompt tokens that one step computes."""
    grain_tokens: int
    """Prompts are cut, and prefixes shared, at multiples of this, which divides `chunk_tokens`; 1 is anywhere."""
    least_shared_tokens: int = 1
    """Beginnings that have fewer tokens in common are not shared: it would cost more than it saves."""
    block_tokens: int | None = None
    """Rows take memory as they fill, in blocks of so many positions; None: all they may need, from their beginning."""
    max_waiting_tokens: int = 131_072
    """Prompt tokens of requests without a token yet, beyond which more are refused; one request is always taken."""
    prefix_reuse: bool = True
    """Whether rows are kept for prompts that begin the same."""


def whole_blocks(num_tokens: int, block_tokens: int | None) -> int:
    """Cache positions that so many tokens take up."""
    block = block_tokens or 1
    return -(-num_tokens // block) * block


class Scheduler:
    """First come, first served: running sequences decode in every step, prompts are computed between, in chunks.

    A sequence runs when it has a slot and its longest possible length is reserved in the cache, so nothing that runs
    can run out of memory later. A prompt is cut where a step's share of prompt tokens ends, but only at the grain:
    where attention over another chunk would differ in its last bits, a seeded answer must not depend on load.

    cache positions: [ promised to running sequences | promised to kept rows | free ]
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: OrderedDict[int, Sequence] = OrderedDict()
        """By number, first come first."""
        self.running: list[Sequence] = []
        self.free_slots = list(reversed(range(limits.max_sequences)))
        self.num_reserved = 0
        """Cache positions promised to running sequences."""
        self.kept = KeptRows(most=2 * limits.max_sequences if limits.prefix_reuse else 0)
        self._rows = itertools.count()

    def add(self, number: int, request: TokenRequest) -> Sequence:
        """Lines a request up."""
        self.waiting[number] = sequence = Sequence(number, request)
        return sequence

    def remove(self, sequence: Sequence, keep: bool) -> None:
        """Takes a sequence out, wherever it stands, and frees what it held; `keep` lets its prefix be reused."""
        if sequence.slot < 0:
            del self.waiting[sequence.number]
            return
        self.running.remove(sequence)
        self.free_slots.append(sequence.slot)
        self.num_reserved -= sequence.num_reserved
        prefix = self._prefix(sequence, num_reserved=self._num_held(sequence))
        if keep and prefix.num_tokens:
            self.kept.keep(prefix)
        else:
            self.kept.evicted.append(sequence.row)

    def schedule(self, now: float) -> Batch:
        """The next step's batch: one token of each decoding sequence, then prompt chunks within the budget."""
        batch, budget = [], self.limits.chunk_tokens
        prefilling: deque[Sequence] = deque()
        for sequence in self.running:
            if sequence.num_computed < sequence.num_prompt:
                prefilling.append(sequence)
            else:
                batch.append(Span(sequence, sequence.num_computed, 1))
        while budget and (next_one := prefilling.popleft() if prefilling else self._first_in_line()):
            chunk = self._next_chunk(next_one, budget)
            if chunk.count > budget:
                break
            if next_one.slot < 0:
                self._admit(next_one, now)
            budget -= chunk.count
            batch.append(chunk)
        return batch

    def check_books(self) -> None:
        """With nothing running, everything must be free; raises if something leaked."""
        leaked = self.limits.max_sequences - len(self.free_slots)
        if self.running or self.waiting or leaked or self.num_reserved:
            raise RuntimeError(f"idle, yet {leaked} slots and {self.num_reserved} cache positions are not free")

    def _num_needed(self, sequence: Sequence) -> int:
        """Cache positions for the most tokens that the sequence can come to."""
        longest = min(sequence.num_prompt + sequence.request.max_tokens, self.limits.context_length)
        return whole_blocks(longest, self.limits.block_tokens)

    def _num_held(self, sequence: Sequence) -> int:
        """Cache positions that its row takes up by now."""
        if self.limits.block_tokens is None:
            return sequence.num_reserved
        return min(sequence.num_reserved, whole_blocks(len(sequence.ids), self.limits.block_tokens))

    def _first_in_line(self) -> Sequence | None:
        """The next to run, if there is a slot and room for it, matched with the best row to begin from."""
        if not (self.waiting and self.free_slots):
            return None
        sequence = next(iter(self.waiting.values()))
        if self.num_reserved + self._num_needed(sequence) > self.limits.max_cache_tokens:
            return None
        sequence.match = self._longest_match(sequence)
        sequence.num_computed = sequence.num_cached
        return sequence

    def _admit(self, sequence: Sequence, now: float) -> None:
        del self.waiting[sequence.number]
        self.running.append(sequence)
        sequence.slot, sequence.scheduled_at = self.free_slots.pop(), now
        self._give_row(sequence)
        self.num_reserved += sequence.num_reserved
        self.kept.shrink_to(self.limits.max_cache_tokens - self.num_reserved)

    def _give_row(self, sequence: Sequence) -> None:
        """Continues in the matching row if nobody runs in it and nothing of a prompt is lost; else begins one."""
        sequence.num_reserved = self._num_needed(sequence)
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
        running = (self._prefix(other, num_reserved=0) for other in self.running)
        match = longest_match(sequence.ids, itertools.chain(self.kept, running), self.limits.grain_tokens)
        return match if match and match.num_tokens >= self.limits.least_shared_tokens else None

    def _prefix(self, sequence: Sequence, num_reserved: int) -> Prefix:
        """What of a sequence's row can be reused: what a fresh computation of the same ids gives bit for bit.

        That is all of it where prompts may be cut anywhere, else the whole grains of the prompt.
        """
        grain = self.limits.grain_tokens
        computed = sequence.num_computed if grain == 1 else min(sequence.num_computed, sequence.num_prompt)
        return Prefix(sequence.row, sequence.ids, computed // grain * grain, sequence.num_prompt, num_reserved)

    def _next_chunk(self, sequence: Sequence, budget: int) -> Span:
        """The sequence's next prompt tokens: up to the grain's next multiple, or as many as the budget allows."""
        start, grain = sequence.num_computed, self.limits.grain_tokens
        end = start + budget if grain == 1 else (start // grain + 1) * grain
        return Span(sequence, start, min(end, sequence.num_prompt) - start)
