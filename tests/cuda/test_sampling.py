"""Draws on the device against those of the engine's sampler. A row does not depend on the other rows."""

import dataclasses
import math
import random

import pytest
import torch
from torch import Tensor

from index_grpc.cuda.sampling import CHUNK, NOT_A_NUMBER, Draws, SlotState, draw
from index_grpc.datatypes import SamplingParams
from index_grpc.engine.cuda.slots import param_row
from index_grpc.model import drawing
from index_grpc.model.drawing import ParamColumns, choose, penalised
from index_grpc.model.token_counts import TokenCounts
from tests.engine.test_sampler import SMALLEST

VOCAB = CHUNK + 300
"""Two chunks; the second one is not full."""
NO_PENALTY = SamplingParams(repetition_penalty=1.0)


class Rows:
    """Slots with random histories, in reverse order, and rows of logits for them."""

    def __init__(self, device: torch.device, params: list[SamplingParams], seed: int = 0) -> None:
        self.device, self.params, size = device, params, len(params)
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.logits = torch.randn(size, VOCAB, generator=generator).to(device) * 4
        self.token_counts = TokenCounts(size, VOCAB, device)
        self.slots = list(reversed(range(size)))
        likely = self.logits.topk(20, dim=1).indices.tolist()
        for row, slot in enumerate(self.slots):
            self.token_counts.open(slot, [*rng.sample(likely[row], 5), 7, 7], rng.choices(likely[row], k=5))
        self.state = SlotState(
            params=torch.zeros(size, 8, device=device),
            occurred=self.token_counts.occurred,
            counts=self.token_counts.counts,
            last_ids=torch.full((size,), -5, dtype=torch.int32, device=device),
        )
        for row, slot in enumerate(self.slots):
            self.state.params[slot] = torch.tensor(param_row(params[row]), device=device)

    def draw(self, numbers: list[float], samples: list[int] | None = None, rows: slice = slice(None)) -> list[int]:
        """The ids that the kernels draw; -9 means that none is drawn."""
        slots = self._ints(self.slots[rows])
        wanted = self._ints(samples or [1] * len(slots))
        drawn = self._ints([-9] * len(slots))
        draws = Draws(slots, torch.tensor(numbers[rows], dtype=torch.float32, device=self.device), wanted)
        draw(self.logits[rows], draws, self.state, drawn)
        ids: list[int] = drawn.tolist()
        return ids

    def by_sampler(self, number: float) -> list[tuple[int, bool]]:
        """The ids that the engine's sampler draws, and whether the number is far from an edge between two tokens."""
        table = torch.tensor([drawing.param_row(params) for params in self.params], dtype=torch.float64)
        columns = ParamColumns.of(table.to(self.device))
        slots = torch.tensor(self.slots, device=self.device)
        best, ids = penalised(self.logits, self.token_counts, slots, columns).topk(drawing.MAX_CANDIDATES)

        def at(shift: float) -> Tensor:
            return choose(best.double(), columns, torch.full_like(columns.seed, number + shift))

        places = at(0.0)
        is_clear = (at(-1e-5) == places) & (at(1e-5) == places)
        return list(zip(ids.gather(1, places)[:, 0].tolist(), is_clear[:, 0].tolist(), strict=True))

    def _ints(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.device)


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 2.0]),
        top_p=rng.choice([0.31, 0.7, 1.0]),
        top_k=rng.choice([1, 5, 20, 64]),
        min_p=rng.choice([0.0, 0.1]),
        repetition_penalty=rng.choice([1.0, 1.1, 0.8]),
        frequency_penalty=rng.choice([0.0, -0.7, 1.1]),
        presence_penalty=rng.choice([0.0, 1.3]),
    )


def test_draws_are_those_of_the_sampler(device: torch.device) -> None:
    """For all parameters and random numbers, except on an edge, where float32 may choose the other side."""
    rng = random.Random(1)
    num_clear = 0
    for seed in range(3):
        rows = Rows(device, [random_params(rng) for _ in range(16)], seed)
        number = rng.random() * 0.999
        wanted = rows.by_sampler(number)
        drawn = rows.draw([number] * 16)
        for row, (token_id, is_clear) in enumerate(wanted):
            assert drawn[row] == token_id or not is_clear, rows.params[row]
            num_clear += is_clear
    assert num_clear > 40


def test_the_highest_random_number_draws_the_last_candidate(device: torch.device) -> None:
    """A number below 1 may become 1 when rounded to float32; even then no token is drawn that top_p excludes."""
    params = [
        dataclasses.replace(NO_PENALTY, top_k=64, top_p=top_p, temperature=temperature)
        for top_p in (0.3, 0.7, 1.0)
        for temperature in (0.05, 2.0)
    ]
    rows = Rows(device, params)
    assert rows.draw([1.0] * len(params)) == [token_id for token_id, _ in rows.by_sampler(1 - 1e-9)]


def test_a_row_draws_the_same_alone_and_among_others(device: torch.device) -> None:
    rng = random.Random(5)
    params, numbers = [random_params(rng) for _ in range(6)], [rng.random() for _ in range(6)]
    together, alone = Rows(device, params), Rows(device, params)
    drawn = together.draw(numbers)
    assert [alone.draw(numbers, rows=slice(row, row + 1))[0] for row in range(6)] == drawn
    assert torch.equal(together.state.counts, alone.state.counts)


def test_slots_follow_what_is_drawn(device: torch.device) -> None:
    """The last token, which tokens have occurred and how often; a slot that draws no token does not change."""
    rows = Rows(device, [NO_PENALTY] * 3)
    occurred, counts = rows.state.occurred.clone(), rows.state.counts.clone()
    first, none, third = rows.draw([0.5] * 3, samples=[1, 0, 1])
    assert none == -9
    for row, token_id in ((0, first), (2, third)):
        occurred[rows.slots[row], token_id] = True
        counts[rows.slots[row], token_id] += 1
    assert torch.equal(rows.state.occurred, occurred)
    assert torch.equal(rows.state.counts, counts)
    assert rows.state.last_ids.tolist() == [third, -5, first]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0.0)], ids=["sampled", "greedy"])
def test_nan_and_infinity_are_reported(device: torch.device, params: SamplingParams, bad: float) -> None:
    """NaN or infinity is reported for its own row only, and changes no state."""
    rows, sound = Rows(device, [params] * 3), Rows(device, [params] * 3)
    rows.logits[1, VOCAB - 1] = bad
    drawn = rows.draw([0.5] * 3)
    assert drawn[1] == NOT_A_NUMBER
    assert [drawn[0], drawn[2]] == sound.draw([0.5] * 3)[::2]
    assert int(rows.state.last_ids[rows.slots[1]]) == -5
    assert torch.equal(rows.state.counts[rows.slots[1]], Rows(device, [params] * 3).state.counts[rows.slots[1]])


@pytest.mark.parametrize("params", SMALLEST, ids=str)
def test_the_smallest_values_allowed_are_harmless(device: torch.device, params: SamplingParams) -> None:
    """The likeliest token is drawn, possibly one that has occurred and that tiny penalties raise above all others."""
    rows = Rows(device, [params])
    likeliest = int(rows.logits[0].argmax())
    rows.token_counts.open(0, [likeliest])
    rows.logits[0, 3] = -math.inf
    for number in (0.0, 0.5, 1.0):
        assert rows.draw([number]) == [likeliest]


def test_all_of_a_small_vocabulary_may_come(device: torch.device) -> None:
    """There are fewer tokens than top_k; places beyond them are never drawn."""
    rows = Rows(device, [dataclasses.replace(NO_PENALTY, top_k=64, top_p=1.0)])
    rows.logits = rows.logits[:, :3].contiguous()
    state = dataclasses.replace(rows.state, occurred=torch.zeros(1, 3).bool(), counts=torch.zeros(1, 3))
    rows.state = SlotState(*(getattr(state, name).to(device) for name in ("params", "occurred", "counts", "last_ids")))
    assert {rows.draw([number])[0] for number in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)} <= {0, 1, 2}
