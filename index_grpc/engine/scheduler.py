"""Decides what each step computes. Never sees a tensor."""

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from math import lcm

from index_grpc.contract import Copy, TokenRequest
from index_grpc.engine.allocation import BlockAllocator
from index_grpc.engine.prefixes import Match, Prefix, longest_match
from index_grpc.engine.sequence import Batch, Sequence, Span


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may hold at once."""

    context_length: int
    max_sequences: int
    max_waiting: int
    num_blocks: int
    """Blocks of keys and values that fit in memory: at least one whole context."""
    block_tokens: int
    """Positions of a block."""
    chunk_tokens: int
    """The most prompt tokens that one step computes."""
    alignment_tokens: int
    """Prompts are cut, and prefixes shared, at multiples of this, which divides `chunk_tokens`; 1 is anywhere."""
    answers_like_prompts: bool = False
    """Whether a token gets the same bits as part of an answer, one at a time, and as part of a prompt."""
    least_shared_tokens: int = 1
    """Beginnings that have fewer tokens in common are not shared: it would cost more than it saves."""
    max_waiting_tokens: int = 131_072
    """Prompt tokens of requests without a token yet, beyond which more are refused; one request is always taken."""
    prefix_reuse: bool = True
    """Whether prefixes are kept for prompts that begin the same."""

    @property
    def max_cache_tokens(self) -> int:
        """Positions of keys and values that fit in memory."""
        return self.num_blocks * self.block_tokens


class Scheduler:
    """First come, first served: running sequences decode in every step, prompts are computed between, in chunks.

    A sequence begins to run when it has a slot and there are blocks for its prompt and one more. It takes them as it
    grows. When there are none left, who came last stops running: its blocks go to the others, and it waits, as the
    first in line, to be computed again. So who came first always gets through.

    A prompt is cut where a step's share of prompt tokens ends, but only at the alignment: where attention over another
    chunk would differ in its last bits, a seeded answer must not depend on load.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: OrderedDict[int, Sequence] = OrderedDict()
        """By number, first come first."""
        self.running: list[Sequence] = []
        self.free_slots = list(reversed(range(limits.max_sequences)))
        most_kept = 2 * limits.max_sequences if limits.prefix_reuse else 0
        self.allocator = BlockAllocator(limits.num_blocks, limits.block_tokens, limits.alignment_tokens, most_kept)
        self.num_preemptions = 0
        """How often a sequence had to stop running so far."""

    def add(self, number: int, request: TokenRequest) -> Sequence:
        """Lines a request up."""
        longest = min(len(request.prompt_ids) + request.max_tokens, self.limits.context_length)
        self.waiting[number] = sequence = Sequence(number, request, longest)
        return sequence

    def remove(self, sequence: Sequence, keep: bool) -> None:
        """Takes a sequence out, wherever it stands, and frees what it held; `keep` lets its prefix be reused."""
        if not sequence.is_running:
            del self.waiting[sequence.number]
            return
        self._stop_running(sequence)
        prefix = self._prefix(sequence)
        if keep and prefix.num_tokens:
            self.allocator.keep(sequence, prefix)
        else:
            self.allocator.let_go(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Has a running sequence wait until it can be computed again."""
        self._stop_running(sequence)
        self.allocator.let_go(sequence)
        sequence.num_computed = sequence.num_confirmed = 0
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting[sequence.number] = sequence
        self.waiting = OrderedDict(sorted(self.waiting.items()))

    def schedule(self, now: float) -> Batch:
        """The next step's batch: one token of each decoding sequence, then prompt chunks within the budget."""
        self.allocator.let_sources_go()
        num_preemptions = self.num_preemptions
        spans = self._decodes()
        budget = self._continue_prompts(spans)
        copies = self._begin_prompts(spans, budget, now) if num_preemptions == self.num_preemptions else []
        return Batch(list(spans.values()), copies)

    def check_for_leaks(self) -> None:
        """With nothing running, everything must be free; raises RuntimeError if something leaked."""
        leaked = self.limits.max_sequences - len(self.free_slots)
        if self.running or self.waiting or leaked:
            raise RuntimeError(f"idle, yet {leaked} slots are not free")
        self.allocator.check_for_leaks()

    def _decodes(self) -> dict[int, Span]:
        """A token of each sequence whose prompt is computed, by number."""
        spans: dict[int, Span] = {}
        for sequence in list(self.running):
            if self._is_prefilling(sequence) or sequence.num_ids >= sequence.longest:
                continue  # or steps under way generate its last token
            if self._give_room(sequence, sequence.num_computed + 1, spans):
                spans[sequence.number] = sequence.next_span(1)
        return spans

    def _continue_prompts(self, spans: dict[int, Span]) -> int:
        """Adds chunks of prompts that have begun. Returns what is left of the budget; 0 if no other may begin."""
        budget = self.limits.chunk_tokens
        for sequence in [sequence for sequence in self.running if self._is_prefilling(sequence)]:
            if not sequence.is_running:  # gave way to one before it
                continue
            count = self._next_chunk(sequence, budget)
            if not 0 < count <= budget:
                return 0
            if self._give_room(sequence, sequence.num_computed + count, spans):
                spans[sequence.number] = sequence.next_span(count)
                budget -= count
        return budget

    def _begin_prompts(self, spans: dict[int, Span], budget: int, now: float) -> list[Copy]:
        """Adds the first chunks of who is next in line."""
        copies: list[Copy] = []
        while budget and self.waiting and self.free_slots:
            sequence = next(iter(self.waiting.values()))
            has_room, match = self._room(sequence)
            if not has_room:
                break
            sequence.num_computed = match.num_tokens if match else 0
            count = self._next_chunk(sequence, budget)
            if count > budget:
                break
            copies += self._admit(sequence, match, now)
            self.allocator.grow(sequence, sequence.num_computed + count)
            spans[sequence.number] = sequence.next_span(count)
            budget -= count
        return copies

    def _room(self, sequence: Sequence) -> tuple[bool, Match | None]:
        """Whether the first in line can begin and nobody has to stop for it, and the match to begin from."""
        if sequence.num_launched:
            return False, None
        sequence.num_prefill = len(sequence.ids) if self.limits.answers_like_prompts else sequence.num_prompt
        promised = [other for other in self.running if self._is_prefilling(other)]
        num_promised = sum(self._num_wanted(other) - len(other.blocks) for other in promised)
        return self.allocator.fitting(self._longest_match(sequence), self._num_wanted(sequence), num_promised)

    def _admit(self, sequence: Sequence, match: Match | None, now: float) -> list[Copy]:
        del self.waiting[sequence.number]
        self.running.append(sequence)
        sequence.slot = self.free_slots.pop()
        if not sequence.num_preemptions:
            sequence.scheduled_at, sequence.num_cached = now, sequence.num_computed
        copies = self.allocator.begin(sequence, match) if match else []
        sequence.num_confirmed = sequence.num_computed - sum(copy.num_tokens for copy in copies)
        return copies

    def _stop_running(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.free_slots.append(sequence.slot)
        sequence.slot = -1

    def _give_room(self, sequence: Sequence, num_tokens: int, spans: dict[int, Span]) -> bool:
        """Gives a sequence blocks for so many positions, if need be those of who came last; False if that is itself."""
        if num_tokens <= len(sequence.blocks) * self.limits.block_tokens:
            return True
        while not self.allocator.grow(sequence, num_tokens):
            last = max(self.running, key=lambda other: other.number)
            self.preempt(last)
            spans.pop(last.number, None)
            if last is sequence:
                return False
        return True

    def _num_wanted(self, sequence: Sequence) -> int:
        """Blocks for what is there of a sequence and one more, but no more than it can ever need."""
        return min(self.allocator.num_for(len(sequence.ids)) + 1, self.allocator.num_for(sequence.longest))

    def _is_prefilling(self, sequence: Sequence) -> bool:
        return sequence.num_computed < sequence.num_prefill

    def _next_chunk(self, sequence: Sequence, budget: int) -> int:
        """How many prompt tokens come next: up to the alignment's next multiple, or as many as the budget allows."""
        start, alignment = sequence.num_computed, self.limits.alignment_tokens
        end = start + budget if alignment == 1 else (start // alignment + 1) * alignment
        return min(end, sequence.num_prefill) - start

    def _longest_match(self, sequence: Sequence) -> Match | None:
        if not self.limits.prefix_reuse:
            return None
        prefixes = itertools.chain(self.allocator.kept, map(self._prefix, self.running))
        limits = self.limits
        # Who begins again copies nothing: a step that fails with copies may be what made it begin again.
        unit = (
            lcm(limits.block_tokens, limits.alignment_tokens) if sequence.num_preemptions else limits.alignment_tokens
        )
        match = longest_match(sequence.ids[: sequence.num_prefill], prefixes, unit)
        return match if match and match.num_tokens >= self.limits.least_shared_tokens else None

    def _prefix(self, sequence: Sequence) -> Prefix:
        """What of a sequence can be reused: what a fresh computation of the same ids gives bit for bit.

        That is all of it where answers are like prompts, else the prompt, in whole grains.
        """
        most = sequence.longest if self.limits.answers_like_prompts else sequence.num_prompt
        num_tokens = min(most, sequence.num_confirmed) // self.limits.alignment_tokens * self.limits.alignment_tokens
        blocks = sequence.blocks[: self.allocator.num_for(num_tokens)]
        return Prefix(sequence.number, sequence.ids, num_tokens, sequence.num_prompt, blocks)
