"""The scheduler: decides what each step computes. Handles no tensors."""

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from math import lcm

from index_grpc.datatypes import Copy, TokenRequest
from index_grpc.engine.allocation import BlockAllocator
from index_grpc.engine.limits import Limits
from index_grpc.engine.prefixes import Match, Prefix, longest_match
from index_grpc.engine.sequence import Batch, Sequence, Span


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a waiting sequence would begin to run."""

    num_prefill: int
    """Tokens to prefill in chunks, shared ones included."""
    match: Match | None
    """The prefix to begin from, if there is any."""

    @property
    def num_shared(self) -> int:
        """Number of tokens that need not be computed."""
        return self.match.num_tokens if self.match else 0


class Scheduler:
    """Serves requests in order of arrival: running sequences decode in every step; prompts are prefilled in chunks.

    A sequence begins to run when there are a free slot and blocks for its prompt and one more. It takes blocks as it
    grows. When none are left, the running sequence that arrived last is preempted: its blocks go to the others, and it
    waits, first in the queue, to be computed again. So the sequence that arrived first always completes.

    A prompt is cut where a step's budget of prompt tokens ends, but only at multiples of the alignment: other chunks
    could change the last bits of attention, and a seeded answer must not depend on load.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: OrderedDict[int, Sequence] = OrderedDict()
        """Waiting sequences by number, in order of arrival."""
        self.running: list[Sequence] = []
        self.free_slots = list(reversed(range(limits.max_sequences)))
        most_kept = 2 * limits.max_sequences if limits.prefix_reuse else 0
        self.allocator = BlockAllocator(limits.num_blocks, limits.block_tokens, limits.alignment_tokens, most_kept)
        self.num_preemptions = 0
        """Number of preemptions so far."""
        self.num_places: int | None = None
        """How many sequences the blocks suffice for, if the next in the queue lacks some; otherwise None.

        One that waits only for a slot or for the budget of a step lacks none.
        """

    def add(self, number: int, request: TokenRequest) -> Sequence:
        """Adds a request at the end of the queue."""
        longest = min(len(request.prompt_ids) + request.max_tokens, self.limits.context_length)
        self.waiting[number] = sequence = Sequence(number, request, longest)
        return sequence

    def remove(self, sequence: Sequence, keep: bool) -> None:
        """Removes a waiting or running sequence and frees what it held, except for its prefix if `keep` is true."""
        if not sequence.is_running:
            if next(iter(self.waiting)) == sequence.number:
                self.num_places = None  # the one behind it may lack nothing
            del self.waiting[sequence.number]
            return
        self._stop_running(sequence)
        prefix = self._prefix(sequence)
        if keep and prefix.num_tokens:
            self.allocator.keep(sequence, prefix)
        else:
            self.allocator.let_go(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Stops a running sequence and frees its blocks; it waits to be computed again from the start."""
        self._stop_running(sequence)
        self.allocator.let_go(sequence)
        sequence.num_computed = sequence.num_confirmed = 0
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting[sequence.number] = sequence
        self.waiting = OrderedDict(sorted(self.waiting.items()))

    def schedule(self, now: float) -> Batch:
        """Returns the next step's batch: one token of each decoding sequence, then prompt chunks within the budget."""
        self.allocator.let_sources_go()
        num_preemptions = self.num_preemptions
        spans = self._decodes()
        budget = self._continue_prompts(spans)
        has_preempted = self.num_preemptions > num_preemptions
        copies = [] if has_preempted else self._begin_prompts(spans, budget, now)
        self.num_places = self._num_begun() if has_preempted or self._lacks_blocks() else None
        return Batch(list(spans.values()), copies)

    def check_for_leaks(self) -> None:
        """Checks, when nothing runs, that all slots are free and no block leaked. Raises RuntimeError otherwise."""
        leaked = self.limits.max_sequences - len(self.free_slots)
        if self.running or self.waiting or leaked:
            raise RuntimeError(f"idle, yet {leaked} slots are not free")
        self.allocator.check_for_leaks()

    def _decodes(self) -> dict[int, Span]:
        """Returns, by sequence number, a span of one token for each sequence whose prompt is computed."""
        spans: dict[int, Span] = {}
        for sequence in list(self.running):
            if self._is_prefilling(sequence) or sequence.num_ids >= sequence.longest:
                continue  # steps in flight may generate its last token already
            if self._give_room(sequence, sequence.num_computed + 1, spans):
                spans[sequence.number] = sequence.next_span(1)
        return spans

    def _continue_prompts(self, spans: dict[int, Span]) -> int:
        """Adds the next chunks of running prompts. Returns the budget left, or 0 if no other prompt may begin."""
        budget = self.limits.chunk_tokens
        for sequence in [sequence for sequence in self.running if self._is_prefilling(sequence)]:
            if not sequence.is_running:  # preempted for a sequence before it
                continue
            count = self._next_chunk(sequence.num_computed, sequence.num_prefill, budget)
            if not 0 < count <= budget:
                return 0
            if self._give_room(sequence, sequence.num_computed + count, spans):
                spans[sequence.number] = sequence.next_span(count)
                budget -= count
        return budget

    def _begin_prompts(self, spans: dict[int, Span], budget: int, now: float) -> list[Copy]:
        """Admits waiting sequences in order and adds their first chunks. Returns the copies to make first."""
        copies: list[Copy] = []
        while budget and self.waiting and self.free_slots:
            sequence = next(iter(self.waiting.values()))
            beginning = self._beginning(sequence)
            if beginning is None:
                break
            count = self._next_chunk(beginning.num_shared, beginning.num_prefill, budget)
            if count > budget:
                break
            copies += self._admit(sequence, beginning, now)
            self.allocator.grow(sequence, sequence.num_computed + count)
            spans[sequence.number] = sequence.next_span(count)
            budget -= count
        return copies

    def _beginning(self, sequence: Sequence) -> Beginning | None:
        """Returns how the first in the queue would begin; None if it cannot begin without preempting others."""
        if sequence.num_launched:
            return None
        num_prefill = len(sequence.ids) if self.limits.answers_like_prompts else sequence.num_prompt
        has_room, match = self._fitting(sequence, self._longest_match(sequence, num_prefill))
        return Beginning(num_prefill, match) if has_room else None

    def _fitting(self, sequence: Sequence, match: Match | None) -> tuple[bool, Match | None]:
        """Returns whether there are blocks for a sequence besides those for running prompts, and the match to use."""
        promised = [other for other in self.running if self._is_prefilling(other)]
        num_promised = sum(self._num_wanted(other) - len(other.blocks) for other in promised)
        return self.allocator.fitting(match, self._num_wanted(sequence), num_promised)

    def _lacks_blocks(self) -> bool:
        """Returns whether the first in the queue has a slot, but no blocks."""
        if not (self.waiting and self.free_slots):
            return False
        first = next(iter(self.waiting.values()))
        # Searching for a prefix takes time, and is needed only if the sequence does not fit without one.
        return not self._fitting(first, None)[0] and self._beginning(first) is None

    def _num_begun(self) -> int:
        """Returns how many sequences run or were preempted; these come before all others in the queue."""
        preempted = itertools.takewhile(lambda sequence: sequence.num_preemptions, self.waiting.values())
        return len(self.running) + sum(1 for _ in preempted)

    def _admit(self, sequence: Sequence, beginning: Beginning, now: float) -> list[Copy]:
        del self.waiting[sequence.number]
        self.running.append(sequence)
        sequence.slot = self.free_slots.pop()
        sequence.num_prefill, sequence.num_computed = beginning.num_prefill, beginning.num_shared
        if not sequence.num_preemptions:
            sequence.scheduled_at, sequence.num_cached = now, beginning.num_shared
        copies = self.allocator.begin(sequence, beginning.match) if beginning.match else []
        sequence.num_confirmed = sequence.num_computed - sum(copy.num_tokens for copy in copies)
        return copies

    def _stop_running(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.free_slots.append(sequence.slot)
        sequence.slot = -1

    def _give_room(self, sequence: Sequence, num_tokens: int, spans: dict[int, Span]) -> bool:
        """Gives a sequence blocks for `num_tokens` positions, if need be by preempting the sequences that came last.

        Returns False if the sequence itself was preempted.
        """
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
        """Returns the number of blocks for a sequence's known ids, plus one, but never more than it can ever need."""
        return min(self.allocator.num_for(len(sequence.ids)) + 1, self.allocator.num_for(sequence.longest))

    def _is_prefilling(self, sequence: Sequence) -> bool:
        return sequence.num_computed < sequence.num_prefill

    def _next_chunk(self, start: int, num_prefill: int, budget: int) -> int:
        """Returns how many tokens to prefill next: to the next multiple of the alignment; if that is 1, the budget."""
        alignment = self.limits.alignment_tokens
        end = start + budget if alignment == 1 else (start // alignment + 1) * alignment
        return min(end, num_prefill) - start

    def _longest_match(self, sequence: Sequence, num_prefill: int) -> Match | None:
        if not self.limits.prefix_reuse:
            return None
        prefixes = itertools.chain(self.allocator.kept, map(self._prefix, self.running))
        limits = self.limits
        # A preempted sequence begins again without copies: a failed step with copies may be why it was preempted.
        unit = (
            lcm(limits.block_tokens, limits.alignment_tokens) if sequence.num_preemptions else limits.alignment_tokens
        )
        match = longest_match(sequence.ids[:num_prefill], prefixes, unit)
        return match if match and match.num_tokens >= self.limits.least_shared_tokens else None

    def _prefix(self, sequence: Sequence) -> Prefix:
        """Returns the part of a sequence that may be reused: what a fresh prefill of its ids would give bit for bit.

        That is all of it if `answers_like_prompts`, else its prompt, down to a multiple of the alignment.
        """
        most = sequence.longest if self.limits.answers_like_prompts else sequence.num_prompt
        num_tokens = min(most, sequence.num_confirmed) // self.limits.alignment_tokens * self.limits.alignment_tokens
        blocks = sequence.blocks[: self.allocator.num_for(num_tokens)]
        return Prefix(sequence.number, sequence.ids, num_tokens, sequence.num_prompt, blocks)
