"""Draws tokens from logits with PyTorch, each row by its own parameters. `native/draw.h` follows the same rules.

B is the number of rows, V the size of the vocabulary. The order is that of transformers: penalties, temperature, top_k,
top_p, min_p. A row's draw does not depend on other rows, and its random number depends only on (seed, step), so a
seeded request draws the same tokens in any batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from index_grpc.datatypes import SamplingParams
from index_grpc.model.token_counts import TokenCounts
from index_grpc.model.transfer import to_device

MAX_CANDIDATES = 64
"""The largest top_k whose candidates are found without sorting the whole vocabulary."""

SMALLEST_PENALTY = torch.finfo(torch.float32).tiny
"""A smaller repetition penalty would become 0 in float32, and a logit of 0 divided by it would be NaN."""

_MASK_64 = (1 << 64) - 1


def uniform(seed: int, step: int) -> float:
    """Returns a number in [0, 1) that depends only on its arguments (SplitMix64 of both)."""
    z = (((seed << 32) | step) + 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


@dataclass(frozen=True, slots=True)
class ParamColumns:
    """The columns of a table of sampling parameters, [B, 1] each, float64; `native/draw.h` reads the table's rows."""

    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    frequency_penalty: Tensor
    presence_penalty: Tensor
    top_k: Tensor
    """0 means no limit."""
    seed: Tensor

    @classmethod
    def of(cls, table: Tensor) -> "ParamColumns":
        """Splits a table [B, 8] into its columns."""
        return cls(*table.split(1, dim=1))


NUM_PARAMS = len(ParamColumns.__slots__)


def is_narrow(params: SamplingParams, most: int) -> bool:
    """Returns whether at most `most` candidates are left, so that the other tokens need not be sorted."""
    return params.temperature == 0.0 or 0 < params.top_k <= most


def param_row(params: SamplingParams) -> list[float]:
    """Returns a request's row of the table."""
    is_greedy = params.temperature == 0.0
    return [
        1.0 if is_greedy else params.temperature,
        params.top_p,
        params.min_p,
        max(params.repetition_penalty, SMALLEST_PENALTY),
        params.frequency_penalty,
        params.presence_penalty,
        1 if is_greedy else params.top_k,
        params.seed,
    ]


class SlotTable:
    """The sampling parameters and the token history of each slot's sequence."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.device = device
        self.params = torch.zeros(num_slots, NUM_PARAMS, dtype=torch.float64, device=device)
        self.token_counts = TokenCounts(num_slots, vocab_size, device)


class Draw(Protocol):
    """Draws tokens."""

    def __call__(self, logits: Tensor, table: SlotTable, slots: Sequence[int], steps: Sequence[int]) -> list[int]:
        """Draws the next token of each row of logits [B, V], float32, and adds it to the history of the row's slot.

        `steps` has the index of each token in its answer, from 0 on. Raises FloatingPointError if a row's highest score
        is not finite; then the histories may be wrong.
        """


def draw(logits: Tensor, table: SlotTable, slots: Sequence[int], steps: Sequence[int]) -> list[int]:
    """Draws with PyTorch, see Draw. Sorts the vocabulary only for the rows that need it."""
    most = min(MAX_CANDIDATES, logits.shape[1])
    top_k = ParamColumns.of(table.params).top_k[to_device(slots, table.device), 0].tolist()
    few = [row for row, limit in enumerate(top_k) if 0 < limit <= most]
    many = [row for row, limit in enumerate(top_k) if not 0 < limit <= most]
    ids: dict[int, int] = {}
    for rank, rows in ((partial(_likeliest, most), few), (_sorted, many)):
        if rows:
            found = _draw(rank, logits[rows], table, [slots[row] for row in rows], [steps[row] for row in rows])
            ids |= zip(rows, found, strict=True)
    return [ids[row] for row in range(len(slots))]


def _likeliest(most: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores.topk(most, dim=1)


def _sorted(scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores.sort(dim=1, descending=True, stable=True)


def _draw(
    rank: Callable[[Tensor], tuple[Tensor, Tensor]],
    logits: Tensor,
    table: SlotTable,
    slots: Sequence[int],
    steps: Sequence[int],
) -> list[int]:
    """Draws among what `rank` returns for scores [B, V]: scores, highest first, and ids, [B, n] each."""
    rows = to_device(slots, table.device)
    params = ParamColumns.of(table.params[rows])
    best, ids = rank(penalised(logits, table.token_counts, rows, params))
    if not bool(best[:, 0].isfinite().all()):  # NaN sorts before all numbers, so the first column tells
        raise FloatingPointError("the model's output is not a number")
    numbers = [uniform(int(seed), step) for (seed,), step in zip(params.seed.tolist(), steps, strict=True)]
    draws = to_device(numbers, table.device, torch.float64)[:, None]
    chosen = ids.gather(1, choose(best.double(), params, draws))[:, 0]
    table.token_counts.add(rows, chosen)
    found: list[int] = chosen.tolist()
    return found


def penalised(logits: Tensor, token_counts: TokenCounts, slots: Tensor, params: ParamColumns) -> Tensor:
    """Returns the logits [B, V] after penalties for the tokens that have occurred in the slots [B]."""
    counts, limits = token_counts.counts[slots], torch.finfo(logits.dtype)
    factor = torch.where(token_counts.occurred[slots], params.repetition_penalty.float(), 1.0)
    scores = torch.where(logits < 0, logits * factor, logits / factor)
    scores = torch.where(factor == 1, scores, scores.clamp(limits.min, limits.max))  # a tiny penalty overflows
    less: Tensor = scores - counts * params.frequency_penalty.float() - (counts > 0) * params.presence_penalty.float()
    return less


def choose(best: Tensor, params: ParamColumns, draws: Tensor) -> Tensor:
    """Returns the place [B, 1] in each row of ranked scores [B, n] on which the draw [B, 1], in [0, 1), falls."""
    places = torch.arange(best.shape[1], device=best.device)
    limit = torch.where(params.top_k > 0, params.top_k, float(best.shape[1]))
    scaled = ((best - best[:, :1]) / params.temperature).masked_fill(places >= limit, -torch.inf)  # the first is 0
    shares = scaled.softmax(dim=1)
    before = shares.cumsum(dim=1) - shares
    kept = ((before < params.top_p) & (shares >= params.min_p * shares[:, :1])) | (places == 0)
    reached = shares.masked_fill(~kept, 0.0).cumsum(dim=1)
    place = (reached <= draws * reached[:, -1:]).sum(dim=1, keepdim=True)
    return place.clamp(max=best.shape[1] - 1)
