"""Draws tokens with PyTorch where the kernels of `cuda.sampling` do not, and computes log-probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from index_grpc.cuda.sampling import MAX_CANDIDATES, NOT_A_NUMBER
from index_grpc.datatypes import Candidate, Token
from index_grpc.engine.cuda.slots import Slots
from index_grpc.engine.sequence import Span
from index_grpc.model.drawing import ParamColumns, choose, is_narrow, param_row, penalised, uniform
from index_grpc.model.transfer import to_device

ROWS_AT_ONCE = 32
"""Rows that PyTorch draws from together: each takes some megabytes meanwhile."""


def drawn_by_kernels(span: Span) -> bool:
    """Returns whether the kernels of the step draw the span's token."""
    return span.samples and is_narrow(span.sequence.request.sampling, MAX_CANDIDATES)


def draw_from_all(logits: Tensor, spans: list[Span], slots: Slots, drawn: Tensor) -> None:
    """Draws for the rows of logits [B, V] that the kernels leave out, into `drawn` [B] and their slots' state."""
    rows = [row for row, span in enumerate(spans) if span.samples and not drawn_by_kernels(span)]
    for some in _portions(rows):
        _draw_from_rows(to_device(some, logits.device), [spans[row] for row in some], logits, slots, drawn)


def _draw_from_rows(rows: Tensor, spans: list[Span], logits: Tensor, slots: Slots, drawn: Tensor) -> None:
    device, params = logits.device, [span.sequence.request.sampling for span in spans]
    numbers = to_device([span.sequence.slot for span in spans], device)
    table = ParamColumns.of(to_device([param_row(one) for one in params], device, torch.float64))
    draws = [[uniform(one.seed, span.step)] for one, span in zip(params, spans, strict=True)]
    scores = penalised(logits[rows], slots.token_counts, numbers, table)
    best, ids = scores.sort(dim=1, descending=True, stable=True)
    places = choose(best.double(), table, to_device(draws, device, torch.float64))
    is_number = best[:, 0].isfinite()
    chosen = torch.where(is_number, ids.gather(1, places.clamp(min=0))[:, 0], 0)
    slots.token_counts.add(numbers, chosen)
    slots.state.last_ids[numbers] = chosen.int()
    drawn[rows] = torch.where(is_number, chosen, NOT_A_NUMBER).int()


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of each row's drawn token and of its likeliest tokens, being copied from the device."""

    rows: list[int]
    chosen: Tensor
    """[rows]."""
    values: Tensor
    """[rows, n]: n is the largest number of likeliest tokens that a request asks for."""
    ids: Tensor

    @classmethod
    def of(cls, logits: Tensor, drawn: Tensor, spans: list[Span]) -> "Logprobs":
        """Computes them for the spans that ask, from logits [B, V] and the tokens drawn [B]."""
        wanted = [span.sequence.request for span in spans]
        rows = [row for row, span in enumerate(spans) if span.samples and wanted[row].logprobs]
        if not rows:
            nothing = torch.empty(0)
            return cls(rows, nothing, nothing, nothing)
        most = min(max(wanted[row].top_logprobs for row in rows), logits.shape[1])
        portions = [to_device(some, logits.device) for some in _portions(rows)]
        found = zip(*(row_logprobs(logits[some], drawn[some], most) for some in portions), strict=True)
        return cls(rows, *(_on_its_way(torch.cat(tensors)) for tensors in found))

    def tokens(self, drawn: list[int], spans: list[Span]) -> dict[int, Token]:
        """Returns the tokens with their log-probabilities, by row. Call it once the device is done."""
        found = {}
        for row, chosen, values, ids in zip(
            self.rows, self.chosen.tolist(), self.values.tolist(), self.ids.tolist(), strict=True
        ):
            count = spans[row].sequence.request.top_logprobs
            found[row] = Token(drawn[row], chosen, tuple(map(Candidate, ids[:count], values[:count])))
        return found


def _portions(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]


def row_logprobs(logits: Tensor, drawn: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns log-probabilities of the drawn tokens, [B], of the `most` likeliest, [B, most], and the latter's ids."""
    # The order in which PyTorch sums a row depends on the row's place; float64 keeps that out of the rounded result.
    logprobs = logits.double().log_softmax(dim=1).float()
    values, ids = logprobs.topk(most, dim=1)
    chosen = logprobs.gather(1, drawn.clamp(min=0).long()[:, None])[:, 0]
    return chosen, values, ids


def _on_its_way(tensor: Tensor) -> Tensor:
    is_cuda = tensor.device.type == "cuda"
    return torch.empty_like(tensor, device="cpu", pin_memory=is_cuda).copy_(tensor, non_blocking=True)
