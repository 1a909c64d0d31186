"""The demo checkpoint through the service: its answers are sensible, end, and remember earlier turns."""

import itertools
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from index_grpc_client import Client, FinishReason

from index_grpc.launch import load
from tests.background import background
from tests.conftest import settings

ROOT = Path(__file__).resolve().parents[1]
EVALUATION = json.loads((ROOT / "demo" / "evaluation.json").read_text())
CHECKPOINT = ROOT / "index_grpc" / "demo_checkpoint"
MOST_BYTES = 8 * 2**20


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    chosen = settings("demo")
    with background(chosen, lambda: load(chosen)) as server, Client(server.address) as client:
        yield client


def answers(client: Client, prompt: dict[str, Any], seed: int) -> bool:
    """Whether the answer to a listed prompt is on topic and the model ended it."""
    result = client.chat(prompt["prompt"], seed=seed)
    on_topic = any(re.search(pattern, result.text, re.IGNORECASE) for pattern in prompt["expect"])
    return on_topic and result.finish_reason == FinishReason.STOP


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_listed_prompts(client: Client, seed: int) -> None:
    prompts = EVALUATION["prompts"]
    assert len(prompts) == 20
    assert sum(bool(re.search("[一-鿿]", prompt["prompt"])) for prompt in prompts) == 10
    assert sum(not prompt["in_corpus"] for prompt in prompts) >= 5
    with ThreadPoolExecutor(8) as pool:
        good = list(pool.map(lambda prompt: answers(client, prompt, seed), prompts))
    assert sum(good) >= 18, [prompt["prompt"] for prompt, fine in zip(prompts, good, strict=True) if not fine]


def test_the_first_turn_decides_the_second_answer(client: Client) -> None:
    """Another colour, city or animal in the first turn changes the second answer, in nine of ten tries."""
    tries = [
        (exchange["first"].format(value=value), exchange["then"], expected, seed)
        for exchange in EVALUATION["memory"]
        for (value, expected), seed in itertools.product(exchange["values"].items(), (1, 2))
    ]

    def recalls(first: str, then: str, expected: str, seed: int) -> bool:
        told = client.chat(first, seed=seed)
        return bool(re.search(expected, client.chat(then, history=told.history, seed=seed).text, re.IGNORECASE))

    with ThreadPoolExecutor(8) as pool:
        recalled = list(pool.map(lambda arguments: recalls(*arguments), tries))
    assert len(recalled) >= 30
    assert sum(recalled) >= 0.9 * len(recalled)


def test_seeds_make_answers_differ(client: Client) -> None:
    assert len({client.chat("Tell me a story.", seed=seed).text for seed in range(6)}) > 1


def test_it_is_small_and_of_the_real_format() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= MOST_BYTES
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["architectures"] == ["IndexForCausalLM"]
    assert config["norm_head"] == 1
    assert config["max_position_embeddings"] >= 2048
    named = {target.partition(".")[0] + ".py" for target in config["auto_map"].values()}
    assert not [name for name in named if (CHECKPOINT / name).exists()]
