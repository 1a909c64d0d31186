"""The device's state of each running sequence, by slot: its blocks, its history, its sampling parameters."""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from index_grpc.cuda.pool import BlockPool
from index_grpc.cuda.sampling import MAX_CANDIDATES, NUM_PARAMS, SlotState
from index_grpc.datatypes import SamplingParams
from index_grpc.engine.sequence import Sequence, Span
from index_grpc.model import drawing
from index_grpc.model.token_counts import TokenCounts
from index_grpc.model.transfer import to_device

SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny


class Told(NamedTuple):
    """The state that the device has of a slot's sequence once all steps in flight are done."""

    number: int
    num_preemptions: int
    num_blocks: int
    num_drawn: int
    """Answer tokens in its history. Differs from the sequence's number if a step that drew a token has failed."""

    @classmethod
    def after(cls, span: Span) -> "Told":
        """Returns the state once the span is computed."""
        sequence = span.sequence
        num_drawn = span.step + span.samples
        return cls(sequence.number, sequence.num_preemptions, len(sequence.blocks), num_drawn)

    def is_of(self, span: Span) -> bool:
        """Returns whether the span continues from this state."""
        sequence = span.sequence
        of_span = (sequence.number, sequence.num_preemptions, span.step)
        return of_span == (self.number, self.num_preemptions, self.num_drawn)


NOTHING = Told(-1, 0, 0, 0)


class Slots:
    """Updates the device's state as sequences begin and grow. The last slot serves the unused rows of a step."""

    def __init__(self, num_slots: int, vocab_size: int, cache: BlockPool, device: torch.device) -> None:
        self.nobody, self.device, self._cache = num_slots, device, cache
        self.token_counts = TokenCounts(num_slots + 1, vocab_size, device)
        self.state = SlotState(
            params=torch.ones(num_slots + 1, NUM_PARAMS, device=device),
            occurred=self.token_counts.occurred,
            counts=self.token_counts.counts,
            last_ids=torch.zeros(num_slots + 1, dtype=torch.int32, device=device),
        )
        self._told = [NOTHING] * num_slots

    def update(self, spans: Iterable[Span]) -> None:
        """Sends the device what it lacks about the sequences of the spans that are to be computed next."""
        places: list[int] = []
        blocks: list[int] = []
        told: list[tuple[int, Told]] = []
        most = self._cache.tables.shape[1]
        for span in spans:
            sequence = span.sequence
            slot, known = sequence.slot, self._num_known_blocks(span)
            places += range(slot * most + known, slot * most + len(sequence.blocks))
            blocks += sequence.blocks[known:]
            told.append((slot, Told.after(span)))
        if places:
            at, numbers = to_device([places, blocks], self.device, torch.int32)
            self._cache.tables.view(-1)[at] = numbers
        for slot, one in told:  # not earlier: if this method fails, the next try must send all again
            self._told[slot] = one

    def _num_known_blocks(self, span: Span) -> int:
        """Returns how many of the sequence's blocks the device knows. If its state does not fit, resets the slot."""
        sequence, told = span.sequence, self._told[span.sequence.slot]
        if told.is_of(span):
            return told.num_blocks
        self._told[sequence.slot] = NOTHING
        self._open(sequence)
        return 0

    def _open(self, sequence: Sequence) -> None:
        slot, request = sequence.slot, sequence.request
        self.token_counts.open(slot, request.prompt_ids, sequence.ids[sequence.num_prompt :])
        self.state.params[slot] = to_device(param_row(request.sampling), self.device, torch.float32)


def param_row(sampling: SamplingParams) -> list[float]:
    """Returns a row of the kernels' table. Candidates are ignored if PyTorch draws, but at least one is searched."""
    temperature, *others, top_k, _ = drawing.param_row(sampling)
    return [max(temperature, SMALLEST_TEMPERATURE), *others, min(top_k, MAX_CANDIDATES) or 1, 0.0]
