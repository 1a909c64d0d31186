"""Draws that the kernels of `cuda.sampling` do not make, and what callers want to know of probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from index_grpc.contract import Candidate, Token
from index_grpc.cuda.sampling import NOT_A_NUMBER
from index_grpc.engine.device.slots import Slots, is_narrow
from index_grpc.engine.sampler import Knobs, choose, wish
from index_grpc.engine.sequence import Span
from index_grpc.model.ranking import penalised


def drawn_by_kernels(span: Span) -> bool:
    """Whether the recorded step draws a token for it."""
    return span.samples and is_narrow(span.sequence.request.sampling)


def draw_from_all(logits: Tensor, spans: list[Span], slots: Slots, drawn: Tensor) -> None:
    """Draws, into `drawn` [B], for those rows of logits [B, V] in which any token may come; tells their slots."""
    rows = [row for row, span in enumerate(spans) if span.samples and not is_narrow(span.sequence.request.sampling)]
    if not rows:
        return
    wide = [spans[row] for row in rows]
    scores = penalised(logits[rows], slots.history, [wish(span.sequence) for span in wide])
    best, ids = scores.sort(dim=1, descending=True, stable=True)
    draws = [(span.sequence.request.sampling, span.step) for span in wide]
    places = choose(best.double(), Knobs.of(draws, best.device))
    is_number = best[:, 0].isfinite()
    chosen = torch.where(is_number, ids.gather(1, places.clamp(min=0))[:, 0], 0)
    numbers = torch.tensor([span.sequence.slot for span in wide], device=best.device)
    slots.history.add(numbers, chosen)
    slots.state.last_ids[numbers] = chosen.int()
    drawn[rows] = torch.where(is_number, chosen, NOT_A_NUMBER).int()


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of a row: of the token drawn, and of the likeliest. On their way from the device."""

    chosen: Tensor
    values: Tensor
    ids: Tensor

    @classmethod
    def of(cls, logits: Tensor, drawn: Tensor, num_likeliest: int) -> "Logprobs":
        """From a row of logits [V] and the token drawn, []."""
        logprobs = logits.log_softmax(dim=0)
        values, ids = logprobs.topk(min(num_likeliest, len(logits)))
        chosen = logprobs.gather(0, drawn.clamp(min=0).long()[None])  # unlike an index, it waits for nothing
        return cls(*(_on_its_way(tensor) for tensor in (chosen, values, ids)))

    def token(self, token_id: int) -> Token:
        """The token with them, once the device is done."""
        likeliest = tuple(map(Candidate, self.ids.tolist(), self.values.tolist()))
        return Token(token_id, float(self.chosen), likeliest)


def _on_its_way(tensor: Tensor) -> Tensor:
    is_cuda = tensor.device.type == "cuda"
    return torch.empty_like(tensor, device="cpu", pin_memory=is_cuda).copy_(tensor, non_blocking=True)
