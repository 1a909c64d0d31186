"""Sampling against transformers' processors. A row does not depend on the other rows."""

import dataclasses
import itertools
import random

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from index_grpc.datatypes import SamplingParams, Token, TokenRequest
from index_grpc.engine.sampler import Sampler
from index_grpc.engine.sequence import Sequence
from index_grpc.model import drawing
from index_grpc.model.config import ModelConfig
from index_grpc.model.drawing import (
    MAX_CANDIDATES,
    Draw,
    ParamColumns,
    SlotTable,
    choose,
    param_row,
    penalised,
    uniform,
)
from index_grpc.model.native import NativeLlama
from tests.engine.kernels import KERNELS, NATIVE, PYTORCH

VOCAB = 300
NUM_DRAWS = 4000

SMALLEST = [
    SamplingParams(repetition_penalty=5e-324),
    SamplingParams(repetition_penalty=1e-38, temperature=0.0),
    SamplingParams(temperature=5e-324, repetition_penalty=1e-300),
    SamplingParams(top_p=5e-324, min_p=1.0, repetition_penalty=1.0),
]
"""The smallest values that are allowed."""


def logits(seed: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def sequence_of(slot: int, params: SamplingParams, prompt: list[int], **fields: object) -> Sequence:
    request = TokenRequest("x", prompt, params, max_tokens=100, **fields)  # type: ignore[arg-type]
    return Sequence(slot, request, slot=slot)


@pytest.fixture(params=KERNELS)
def draw(request: pytest.FixtureRequest) -> Draw:
    """Each implementation of drawing that this machine can run."""
    return drawing.draw if request.param == PYTORCH else native(request.param).draw


def table_of(prompts: list[list[int]], choices: list[SamplingParams], vocab_size: int = VOCAB) -> SlotTable:
    """Slots with one prompt each."""
    table = SlotTable(len(prompts), vocab_size, torch.device("cpu"))
    for slot, (prompt, params) in enumerate(zip(prompts, choices, strict=True)):
        table.token_counts.open(slot, prompt)
        table.params[slot] = torch.tensor(param_row(params), dtype=torch.float64)
    return table


def native(kernels: str, vocab_size: int = VOCAB) -> NativeLlama:
    """The native kernels, without weights."""
    config = ModelConfig(1, 32, 32, 1, 1, 32, vocab_size, 32)
    return NativeLlama(config, NATIVE[kernels], num_threads=2)


def by_transformers(row: Tensor, params: SamplingParams, ids: list[int]) -> Tensor:
    """Probabilities [V] after transformers' processors, in the order that transformers uses."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(params.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(TopKLogitsWarper(min(params.top_k, VOCAB)))
    processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(MinPLogitsWarper(params.min_p))
    scores: Tensor = processors(torch.LongTensor([ids]), row.clone())
    return scores[0].softmax(dim=0)


CASES = [
    SamplingParams(),
    SamplingParams(top_k=0, top_p=1.0),
    SamplingParams(top_k=0, top_p=0.5, temperature=1.5),
    SamplingParams(top_k=100, top_p=0.9),
    SamplingParams(top_k=10**9, top_p=0.3, temperature=2.0),
    SamplingParams(top_k=64, top_p=1.0, min_p=0.2, temperature=1.3),
    SamplingParams(top_k=0, top_p=1.0, min_p=1.0),
    SamplingParams(top_k=1),
    SamplingParams(repetition_penalty=1.0, temperature=0.01),
    SamplingParams(repetition_penalty=5.0, top_k=0, top_p=1.0),
]


@pytest.mark.parametrize("params", CASES, ids=str)
def test_the_probabilities_are_those_of_transformers(params: SamplingParams) -> None:
    """Evenly spaced draws fall on each token in proportion to its probability."""
    row, prompt = logits(5), [3, 8, 8, 250]
    table = table_of([prompt], [params])
    columns = ParamColumns.of(table.params)
    scores = penalised(row, table.token_counts, torch.tensor([0]), columns)
    best, ids = scores.topk(MAX_CANDIDATES) if 0 < params.top_k <= MAX_CANDIDATES else scores.sort(descending=True)
    draws = (torch.arange(NUM_DRAWS, dtype=torch.float64) + 0.5) / NUM_DRAWS
    places = choose(best.double().expand(NUM_DRAWS, -1), columns, draws[:, None])[:, 0]
    shares = torch.bincount(ids[0][places], minlength=VOCAB) / NUM_DRAWS
    wanted = by_transformers(row, params, prompt)
    assert (shares - wanted).abs().max() < 2 / NUM_DRAWS
    assert not shares[wanted == 0].any()


@pytest.mark.parametrize("kernels", NATIVE)
@pytest.mark.parametrize("vocab_size", [40, 64, 300, 3000])
def test_native_draws_are_those_of_pytorch(kernels: str, vocab_size: int) -> None:
    """The tokens are the same with all parameters, and both count them in the same way."""
    generator, rng = torch.Generator().manual_seed(vocab_size), random.Random(vocab_size)
    top_ks = [rng.choice([rng.randint(1, MAX_CANDIDATES), 0, 65, 100, vocab_size - 1, 10**9]) for _ in range(60)]
    choices = [random_params(rng, top_k=top_k) for top_k in top_ks]
    prompts = [[rng.randrange(vocab_size) for _ in range(rng.randint(1, 30))] for _ in choices]
    native_table, table = table_of(prompts, choices, vocab_size), table_of(prompts, choices, vocab_size)
    slots = list(reversed(range(len(choices))))
    for step in range(50):
        rows = torch.randn(len(slots), vocab_size, generator=generator) * 3
        steps = [step + slot for slot in slots]
        drawn = native(kernels, vocab_size).draw(rows, native_table, slots, steps)
        assert drawn == drawing.draw(rows, table, slots, steps)
    assert torch.equal(native_table.token_counts.occurred, table.token_counts.occurred)
    assert torch.equal(native_table.token_counts.counts, table.token_counts.counts)


def test_penalties_of_the_answer(draw: Draw) -> None:
    """Frequency and presence penalties count the answer, not the prompt; zero takes the likeliest token."""
    sampler = Sampler(1, VOCAB, torch.device("cpu"), draw)
    params = SamplingParams(
        temperature=0.0, repetition_penalty=1.0, frequency_penalty=0.5, presence_penalty=0.25, top_k=0
    )
    sequence = sequence_of(0, params, prompt=[1, 1, 1])
    row = torch.full((1, VOCAB), -10.0)
    row[0, 1], row[0, 2] = 2.0, 1.0
    drawn = []
    for _ in range(4):
        token = sampler.sample(row, [sequence])[0]
        sequence.append(token.id, now=1.0)
        drawn.append(token.id)
    # The logits of token 1 are 2, 1.25, 0.75, …; those of token 2 are 1, then 0.25.
    assert drawn == [1, 1, 2, 1]


@pytest.mark.parametrize("seed", range(3))
def test_a_row_draws_the_same_alone_and_among_others(draw: Draw, seed: int) -> None:
    rng = random.Random(seed)
    num_rows = 12
    rows = logits(seed, num_rows)
    choices = [random_params(rng) for _ in range(num_rows)]
    together, alone = [Sampler(num_rows, VOCAB, torch.device("cpu"), draw) for _ in range(2)]
    options: dict[str, object] = {"logprobs": True, "top_logprobs": 5}
    among = [sequence_of(slot, params, [slot + 5], **options) for slot, params in enumerate(choices)]
    lonely = [sequence_of(slot, params, [slot + 5], **options) for slot, params in enumerate(choices)]
    for _ in range(4):
        tokens = together.sample(rows, among)
        single = [alone.sample(rows[slot : slot + 1], [sequence])[0] for slot, sequence in enumerate(lonely)]
        assert tokens == single
        for sequence, token in itertools.chain(zip(among, tokens, strict=True), zip(lonely, single, strict=True)):
            sequence.append(token.id, now=1.0)


def random_params(rng: random.Random, top_k: int | None = None) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 2.0]),
        top_p=rng.choice([0.3, 0.9, 1.0]),
        top_k=rng.choice([0, 1, 5, 64, 65, 10**9]) if top_k is None else top_k,
        min_p=rng.choice([0.0, 0.1]),
        repetition_penalty=rng.choice([1.0, 1.1, 0.5]),
        frequency_penalty=rng.choice([0.0, -2.0]),
        presence_penalty=rng.choice([0.0, 2.0]),
        seed=rng.getrandbits(32),
    )


def test_logprobs_are_those_of_the_raw_logits() -> None:
    sampler = Sampler(1, VOCAB, torch.device("cpu"), drawing.draw)
    sequence = sequence_of(0, SamplingParams(temperature=0.3), [7], logprobs=True, top_logprobs=3)
    row = logits(9)
    token: Token = sampler.sample(row, [sequence])[0]
    wanted = row[0].log_softmax(dim=0)
    assert token.logprob == pytest.approx(float(wanted[token.id]))
    assert [candidate.token_id for candidate in token.top] == wanted.topk(3).indices.tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("top_k", [0, 5])
def test_nan_and_infinity_are_an_error(draw: Draw, bad: float, top_k: int) -> None:
    sampler = Sampler(1, VOCAB, torch.device("cpu"), draw)
    row = logits(1)
    row[0, 77] = bad
    with pytest.raises(FloatingPointError):
        sampler.sample(row, [sequence_of(0, SamplingParams(top_k=top_k), [1])])


def test_a_failed_draw_changes_no_history(draw: Draw) -> None:
    """If another row is NaN, the token of a good row is drawn again, from the history before the failure."""
    params = SamplingParams(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0)
    sampler = Sampler(2, VOCAB, torch.device("cpu"), draw)
    sequences = [sequence_of(slot, params, [1]) for slot in range(2)]
    rows = logits(1, 2)
    broken = rows.clone()
    broken[1, 77] = torch.nan
    first = [token.id for token in sampler.sample(rows, sequences)]
    for sequence, token_id in zip(sequences, first, strict=True):
        sequence.append(token_id, now=1.0)
    with pytest.raises(FloatingPointError):
        sampler.sample(broken, sequences)
    likeliest = rows[0].topk(2)
    assert likeliest.values[0] - likeliest.values[1] < 4.0  # the penalty is larger than the difference
    assert sampler.sample(rows[:1], sequences[:1])[0].id == likeliest.indices[1]


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize("params", SMALLEST, ids=str)
def test_the_smallest_values_allowed_are_harmless(draw: Draw, params: SamplingParams, top_k: int) -> None:
    sampler = Sampler(1, VOCAB, torch.device("cpu"), draw)
    row = logits(4)
    likeliest = int(row.argmax())
    params = dataclasses.replace(params, top_k=top_k)
    assert sampler.sample(row, [sequence_of(0, params, [likeliest])])[0].id == likeliest


def test_uniform_numbers() -> None:
    numbers = [uniform(seed, step) for seed in range(50) for step in range(100)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.02)
    for tenth in range(10):
        share = sum(tenth <= 10 * number < tenth + 1 for number in numbers) / len(numbers)
        assert share == pytest.approx(0.1, abs=0.02)


def test_uniform_numbers_stay_the_same() -> None:
    """A caller's seed gives the same answer with every release."""
    pinned = {
        (0, 0): 0.8833108082136426,  # SplitMix64's well-known first number, 0xE220A8397B1DCDAF
        (0, 1): 0.5665615751722809,
        (1, 0): 0.766301757339086,
        (2**32 - 1, 4095): 0.913060644403106,
    }
    assert {drawn: uniform(*drawn) for drawn in pinned} == pinned
