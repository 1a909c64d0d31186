"""The likeliest tokens of each row of logits, once what has occurred is penalised.

B is the number of rows, V the size of the vocabulary. The order and the meaning of the penalties are transformers'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from index_grpc.model.sending import sent

NUM_CANDIDATES = 64
"""The most tokens of a row that `rank` finds; it does so without sorting the whole vocabulary."""


class History:
    """For each slot, which tokens have occurred in its sequence."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.occurred = torch.zeros(num_slots, vocab_size, dtype=torch.bool, device=device)
        """Tokens of prompt and answer."""
        self.counts = torch.zeros(num_slots, vocab_size, dtype=torch.float32, device=device)
        """How often each token occurs in the answer."""

    def open(self, slot: int, prompt_ids: Sequence[int], answer_ids: Sequence[int] = ()) -> None:
        """Begins a slot's history with a prompt and what there is of its answer."""
        counts, occurred = self.counts[slot].zero_(), self.occurred[slot]
        if answer_ids:
            answer = sent(answer_ids, counts.device)
            counts.index_add_(0, answer, torch.ones_like(answer, dtype=counts.dtype))
        torch.gt(counts, 0, out=occurred)
        occurred.index_fill_(0, sent(prompt_ids, occurred.device), True)

    def add(self, slots: Tensor, ids: Tensor) -> None:
        """Takes one generated token [B] for each of the slots [B]."""
        self.occurred[slots, ids] = True
        self.counts[slots, ids] += 1


@dataclass(frozen=True, slots=True)
class Wish:
    """Whose history counts for a row of logits, how much, and how many of its likeliest tokens are wanted."""

    slot: int
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    num_wanted: int
    """1 to NUM_CANDIDATES."""

    @property
    def counts_answer(self) -> bool:
        """Whether it matters what the answer said so far, apart from the prompt."""
        return bool(self.frequency_penalty or self.presence_penalty)

    @property
    def penalises(self) -> bool:
        """Whether the history changes anything."""
        return self.repetition_penalty != 1.0 or self.counts_answer


class Rank(Protocol):
    """Finds the likeliest tokens."""

    def __call__(self, logits: Tensor, history: History, wishes: Sequence[Wish]) -> tuple[Tensor, Tensor]:
        """Logits [B, V], float32 → scores, likeliest first, and ids, [B, min(NUM_CANDIDATES, V)] each.

        A row's places past its `num_wanted` may hold anything. Where a score is not a number, the row's first is none.
        """


def rank(logits: Tensor, history: History, wishes: Sequence[Wish]) -> tuple[Tensor, Tensor]:
    """Rank with PyTorch."""
    scores, ids = penalised(logits, history, wishes).topk(min(NUM_CANDIDATES, logits.shape[1]), dim=1)
    return scores, ids


def penalised(logits: Tensor, history: History, wishes: Sequence[Wish]) -> Tensor:
    """Logits [B, V] less what has occurred in each row's history."""
    if not any(wish.penalises for wish in wishes):
        return logits
    slots = sent([wish.slot for wish in wishes], logits.device)
    penalties = [(wish.repetition_penalty, wish.frequency_penalty, wish.presence_penalty) for wish in wishes]
    table = sent(penalties, logits.device, torch.float32)
    repetition, frequency, presence = table.split(1, dim=1)  # [B, 1] each
    counts, limits = history.counts[slots], torch.finfo(logits.dtype)
    factor = torch.where(history.occurred[slots], repetition, 1.0)
    scores = torch.where(logits < 0, logits * factor, logits / factor)
    scores = torch.where(factor == 1, scores, scores.clamp(limits.min, limits.max))  # a tiny penalty overflows
    less: Tensor = scores - counts * frequency - (counts > 0) * presence
    return less
