"""Draws the next token of each sequence from its logits. B is the number of rows, V the vocabulary size."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from index_grpc.datatypes import Candidate, Token
from index_grpc.engine.sequence import Sequence
from index_grpc.model.drawing import Draw, SlotTable, param_row
from index_grpc.model.transfer import to_device


class Sampler:
    """Draws the next tokens, and keeps a history of tokens for each slot."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device, draw: Draw) -> None:
        self._table, self._draw = SlotTable(num_slots, vocab_size, device), draw
        self._told: list[tuple[int, int] | None] = [None] * num_slots
        """For each slot, the sequence whose history it holds, and the number of answer tokens in it."""

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> list[Token]:
        """Draws the next token of each sequence from its row of logits [B, V], float32.

        Raises FloatingPointError if a row's highest score is not finite.
        """
        slots = [sequence.slot for sequence in sequences]
        steps = [sequence.num_generated for sequence in sequences]
        for sequence, slot, step in zip(sequences, slots, steps, strict=True):
            if self._told[slot] != (sequence.number, step):  # a new sequence, or after a failure or preemption
                self._open(sequence)
            self._told[slot] = None  # if drawing fails, the history may hold anything
        ids = self._draw(logits, self._table, slots, steps)
        for sequence, slot, step in zip(sequences, slots, steps, strict=True):
            self._told[slot] = (sequence.number, step + 1)
        return with_logprobs(ids, logits, sequences)

    def _open(self, sequence: Sequence) -> None:
        """Fills the sequence's slot with its history and its sampling parameters."""
        slot, params = sequence.slot, sequence.request.sampling
        self._table.token_counts.open(slot, sequence.request.prompt_ids, sequence.ids[sequence.num_prompt :])
        self._table.params[slot] = to_device(param_row(params), self._table.device, torch.float64)


def with_logprobs(ids: Items[int], logits: Tensor, sequences: list[Sequence]) -> list[Token]:
    """Returns tokens of the ids; adds log-probabilities from logits [B, V] for the sequences that asked for them."""
    tokens = list(map(Token, ids))
    for row, sequence in enumerate(sequences):
        if sequence.request.logprobs:
            logprobs = logits[row].log_softmax(dim=0)  # [V]
            values, likeliest = logprobs.topk(min(sequence.request.top_logprobs, logits.shape[1]))
            top = tuple(map(Candidate, likeliest.tolist(), values.tolist()))
            tokens[row] = Token(tokens[row].id, float(logprobs[tokens[row].id]), top)
    return tokens
