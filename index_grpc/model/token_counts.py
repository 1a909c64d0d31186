"""The token history of each running sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from index_grpc.model.transfer import to_device


class TokenCounts:
    """For each slot, the tokens that have occurred in its sequence, and how often."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.occurred = torch.zeros(num_slots, vocab_size, dtype=torch.bool, device=device)
        """Whether each token occurs in the prompt or the answer."""
        self.counts = torch.zeros(num_slots, vocab_size, dtype=torch.float32, device=device)
        """How often each token occurs in the answer."""

    def open(self, slot: int, prompt_ids: Sequence[int], answer_ids: Sequence[int] = ()) -> None:
        """Replaces a slot's history by that of a prompt and the answer's tokens so far."""
        counts, occurred = self.counts[slot].zero_(), self.occurred[slot]
        if answer_ids:
            answer = to_device(answer_ids, counts.device)
            counts.index_add_(0, answer, torch.ones_like(answer, dtype=counts.dtype))
        torch.gt(counts, 0, out=occurred)
        occurred.index_fill_(0, to_device(prompt_ids, occurred.device), True)

    def add(self, slots: Tensor, ids: Tensor) -> None:
        """Adds the generated tokens `ids` [B] to the histories of the slots [B]."""
        self.occurred[slots, ids] = True
        self.counts[slots, ids] += 1
