"""The engine against transformers: the same tokens for the same checkpoint."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from index_grpc.datatypes import SamplingParams
from index_grpc.engine.engine import Engine
from index_grpc.loading import load_runner
from tests.checkpoints import make_checkpoint, reference_model
from tests.conftest import settings
from tests.engine.kernels import KERNELS, compute_with
from tests.engine.running import generate, generate_all, running

NUM_PROMPTS = 32
NUM_TOKENS = 16


def random_prompts(vocab_size: int) -> list[list[int]]:
    """Prompts of 1 to 200 tokens, so that some need several chunks; the first begins with id 0."""
    rng = random.Random(3)
    lengths = [1, 2, 63, 64, 65, 128, 200] + [rng.randint(3, 90) for _ in range(NUM_PROMPTS - 7)]
    prompts = [[rng.randrange(5, vocab_size) for _ in range(length)] for length in lengths]
    prompts[2][0] = 0
    return prompts


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> LlamaForCausalLM:
    return reference_model(checkpoint)


@pytest.fixture(scope="module", params=KERNELS)
async def engine(checkpoint: Path, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        compute_with(patch, request.param)
        loaded = load_runner(settings(checkpoint, max_sequences=NUM_PROMPTS))
    async with running(loaded.runner, loaded.limits) as engine:
        yield engine


def expected(reference: LlamaForCausalLM, ids: list[int], penalty: float) -> list[int]:
    """The tokens that transformers generates greedily."""
    prompt = torch.tensor([ids])
    model: Any = reference  # the types of transformers do not agree
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),  # id 0 is a marker, not padding
        do_sample=False,
        repetition_penalty=penalty,
        max_new_tokens=NUM_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token_id) for token_id in output[0, len(ids) :]]


@pytest.mark.parametrize("penalty", [1.0, 1.1])
async def test_greedy_tokens_at_once_and_alone(engine: Engine, reference: LlamaForCausalLM, penalty: float) -> None:
    prompts = random_prompts(reference.config.vocab_size)
    sampling = SamplingParams(temperature=0.0, repetition_penalty=penalty)
    wanted = [expected(reference, ids, penalty) for ids in prompts]
    assert await generate_all(engine, prompts, sampling) == wanted
    assert [await generate(engine, ids, sampling) for ids in prompts] == wanted


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "changes",
    [
        {"norm_head": 0},
        {"norm_head": None},
        {"rope_ratio": 32},
        {"form": "safetensors"},
        {"model_type": "llama", "num_kv_heads": 2},
    ],
    ids=str,
)
async def test_variants_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], kernels: str
) -> None:
    compute_with(monkeypatch, kernels)
    directory = make_checkpoint(tmp_path / "variant", hidden_size=64, num_layers=2, **changes)
    reference = reference_model(directory)
    loaded = load_runner(settings(directory))
    prompts = random_prompts(loaded.model.vocab_size)[:8]
    async with running(loaded.runner, loaded.limits) as engine:
        assert await generate_all(engine, prompts, SamplingParams(temperature=0.0, repetition_penalty=1.0)) == [
            expected(reference, ids, 1.0) for ids in prompts
        ]
