"""Prompts and arrival times."""

import itertools
import math

import pytest
from index_grpc_client import AsyncClient

from index_grpc.bench.workload import WORDS, Workload, fit_words, poisson_arrivals
from tests.background import BackgroundServer


def first(count: int, seed: str, rate: float) -> list[float]:
    return list(itertools.islice(poisson_arrivals(seed, rate), count))


def test_arrivals_follow_from_the_seed() -> None:
    assert first(5, "0/1", 2.0) == first(5, "0/1", 2.0)
    assert first(5, "0/1", 2.0) != first(5, "0/2", 2.0)
    assert first(5, "0/1", 4.0) == [pytest.approx(instant / 2) for instant in first(5, "0/1", 2.0)]


def test_arrivals_are_poisson() -> None:
    """The gaps have the mean 1 / rate, a share of 1 / e of them is longer, and each is independent of the last."""
    instants = first(20_000, "0/0", 5.0)
    gaps = [after - before for before, after in itertools.pairwise([0.0, *instants])]
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 5, rel=0.02)
    assert sum(gap > 1 / 5 for gap in gaps) / len(gaps) == pytest.approx(1 / math.e, rel=0.02)
    longer_after_longer = [after > 1 / 5 for before, after in itertools.pairwise(gaps) if before > 1 / 5]
    assert sum(longer_after_longer) / len(longer_after_longer) == pytest.approx(1 / math.e, rel=0.05)


def test_prompts_are_distinct_and_repeat() -> None:
    keys = [(seed, series, number) for seed in (0, 1) for series in ("0", "0 warm-up", "1") for number in range(50)]
    prompts = [Workload(seed, 8).prompt(series, number) for seed, series, number in keys]
    assert len({prompt.text for prompt in prompts}) == len({prompt.seed for prompt in prompts}) == len(keys)
    assert prompts == [Workload(seed, 8).prompt(series, number) for seed, series, number in keys]
    assert all(len(prompt.text.split()) == 8 and 0 <= prompt.seed < 2**32 for prompt in prompts)


def test_the_words_differ() -> None:
    assert len(set(WORDS)) == len(WORDS) > 100


@pytest.mark.parametrize("wanted", [4, 64, 400])
async def test_prompts_have_about_the_wanted_number_of_tokens(server: BackgroundServer, wanted: int) -> None:
    async with AsyncClient(server.address) as client:
        num_words = await fit_words(client, 0, wanted)
        prompts = [Workload(0, num_words).prompt("0", number).text for number in range(20)]
        counts = [(await client.count_tokens(prompt)).prompt_tokens for prompt in prompts]
    one_word = max(len(word) for word in WORDS) + 1  # the most tokens of a word
    assert abs(sum(counts) / len(counts) - wanted) <= max(one_word, wanted / 10)
