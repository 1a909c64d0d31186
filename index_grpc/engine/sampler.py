"""The next token of each sequence from its logits. B is the number of rows, V the size of the vocabulary."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from index_grpc.contract import Candidate, Token
from index_grpc.engine.sequence import Sequence
from index_grpc.model.drawing import NUM_CANDIDATES, Draw, SlotTable, draw_from_all, is_narrow, knobs
from index_grpc.model.sending import sent


class Sampler:
    """Draws the next tokens, and keeps for each slot which tokens have occurred."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device, draw: Draw) -> None:
        """`draw` is for sequences that have few candidates."""
        self._most_candidates = min(NUM_CANDIDATES, vocab_size)
        self._table = SlotTable(num_slots, vocab_size, device)
        self._draw_from_candidates = draw
        self._told: list[tuple[int, int] | None] = [None] * num_slots
        """Whose history a slot holds, and how many tokens of the answer it knows."""
        self._wide: set[int] = set()
        """Slots of sequences for which any token may come."""

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> list[Token]:
        """The next token of each sequence from its row of logits [B, V], float32.

        Raises FloatingPointError if a row's highest score is not finite.
        """
        slots = [sequence.slot for sequence in sequences]
        steps = [sequence.num_generated for sequence in sequences]
        for sequence, slot, step in zip(sequences, slots, steps, strict=True):
            if self._told[slot] != (sequence.number, step):  # at first, and after a failure or preemption
                self._open(sequence)
            self._told[slot] = None  # if drawing fails, nobody knows what the history holds
        ids = self._draw(logits, slots, steps)
        for sequence, slot, step in zip(sequences, slots, steps, strict=True):
            self._told[slot] = (sequence.number, step + 1)
        return with_logprobs(ids, logits, sequences)

    def _open(self, sequence: Sequence) -> None:
        """Has its slot know what has occurred, and how its tokens are drawn."""
        slot, params = sequence.slot, sequence.request.sampling
        self._table.history.open(slot, sequence.request.prompt_ids, sequence.ids[sequence.num_prompt :])
        self._table.knobs[slot] = sent(knobs(params), self._table.device, torch.float64)
        if is_narrow(params, self._most_candidates):
            self._wide.discard(slot)
        else:
            self._wide.add(slot)

    def _draw(self, logits: Tensor, slots: list[int], steps: list[int]) -> list[int]:
        wide = [row for row, slot in enumerate(slots) if slot in self._wide]
        if not wide:
            return self._draw_from_candidates(logits, self._table, slots, steps)
        narrow = [row for row, slot in enumerate(slots) if slot not in self._wide]
        ids: dict[int, int] = {}
        for draw, rows in ((draw_from_all, wide), (self._draw_from_candidates, narrow)):
            if rows:
                ids |= zip(rows, draw(logits[rows], self._table, _of(rows, slots), _of(rows, steps)), strict=True)
        return [ids[row] for row in range(len(slots))]


def _of(rows: list[int], numbers: list[int]) -> list[int]:
    return [numbers[row] for row in rows]


def with_logprobs(ids: Items[int], logits: Tensor, sequences: list[Sequence]) -> list[Token]:
    """Tokens of the chosen ids, with log-probabilities from logits [B, V] for the sequences that asked."""
    tokens = list(map(Token, ids))
    for row, sequence in enumerate(sequences):
        if sequence.request.logprobs:
            logprobs = logits[row].log_softmax(dim=0)  # [V]
            values, likeliest = logprobs.topk(min(sequence.request.top_logprobs, logits.shape[1]))
            top = tuple(map(Candidate, likeliest.tolist(), values.tolist()))
            tokens[row] = Token(tokens[row].id, float(logprobs[tokens[row].id]), top)
    return tokens
