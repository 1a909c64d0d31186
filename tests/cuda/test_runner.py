"""The runner for CUDA through the real loop, on a small model."""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from index_grpc.cuda import TRITON_VERSION
from index_grpc.datatypes import SamplingParams, TokenRequest
from index_grpc.engine.cuda import decoding, prefilling, shapes
from index_grpc.engine.cuda.runner import CudaRunner
from index_grpc.engine.cuda.step import Part, Step
from index_grpc.engine.engine import Engine
from index_grpc.engine.sequence import Batch, Sequence
from index_grpc.errors import DeviceLost, RequestFailed
from index_grpc.loading.fingerprint import fingerprint
from index_grpc.model.card import Card
from index_grpc.model.cuda import CudaLlama
from tests.checkpoints import reference_model
from tests.cuda.small import POISON, small_checkpoint, small_model, small_runner
from tests.engine.running import GREEDY, collect, generate, running

NUM_TOKENS = 6
SAMPLED = SamplingParams(temperature=1.5, top_k=8, top_p=0.95, seed=11)
WIDE = dataclasses.replace(SAMPLED, top_k=0)
PENALISED = dataclasses.replace(SAMPLED, temperature=4.0, frequency_penalty=1.5, top_k=4, top_p=1.0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint")


@pytest.fixture(scope="module")
def model(directory: Path, device: torch.device) -> CudaLlama:
    return small_model(directory, device)


def test_the_fingerprint_names_the_card_and_triton(
    directory: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Card, "of", lambda _: Card((9, 0), 227 * 1024, "NVIDIA H200"))
    model = small_model(directory, device)
    named = fingerprint(model, directory, "none")
    assert f"-{device.type}-nvidia_h200_triton{TRITON_VERSION}-torch" in named


@pytest.fixture(scope="module")
def reference(directory: Path) -> LlamaForCausalLM:
    return reference_model(directory)


@pytest.fixture(autouse=True, scope="module")
def small_steps(device: torch.device) -> Iterator[None]:
    """Makes recorded steps small, so that some batches have more prompts, and uses few programs for the interpreter."""
    plain = shapes._plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefilling, "MOST_PROMPTS", 2)
        if device.type == "cpu":
            patch.setattr(shapes, "_plain", lambda num_rows: dataclasses.replace(plain(num_rows), columns=128))
        yield


def prompt(length: int) -> list[int]:
    rng = random.Random(length)
    return [rng.randrange(5, POISON) for _ in range(length)]


def expected(reference: LlamaForCausalLM, ids: list[int], penalty: float) -> list[int]:
    """The tokens that transformers generates greedily."""
    model: Any = reference  # its own types do not fit together
    output = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        do_sample=False,
        repetition_penalty=penalty,
        max_new_tokens=NUM_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token_id) for token_id in output[0, len(ids) :]]


async def answers(
    engine: Engine, asked: list[tuple[list[int], SamplingParams]], at_once: bool, num_tokens: int = NUM_TOKENS
) -> list[list[int]]:
    """The answers, each with `max_tokens` tokens."""
    calls = [generate(engine, ids, sampling, num_tokens) for ids, sampling in asked]
    return list(await asyncio.gather(*calls)) if at_once else [await call for call in calls]


async def test_greedy_tokens_are_those_of_transformers(model: CudaLlama, reference: LlamaForCausalLM) -> None:
    """There are more prompts than slots; some are cut into chunks, and some need more than one block."""
    asked = [
        (prompt(length), SamplingParams(temperature=0.0, repetition_penalty=penalty))
        for length, penalty in [(1, 1.0), (3, 1.3), (2, 1.0), (40, 1.3), (64, 1.0)]
    ]
    async with running(*small_runner(model)) as engine:
        found = await answers(engine, asked, at_once=True)
    assert found == [expected(reference, ids, sampling.repetition_penalty) for ids, sampling in asked]


async def test_seeded_texts_are_the_same_alone_and_among_others(model: CudaLlama) -> None:
    """With all kinds of sampling parameters, and with or without a reused prefix."""
    asked = [(prompt(40), SAMPLED), (prompt(5), WIDE), (prompt(6), PENALISED), (prompt(7), GREEDY)]
    async with running(*small_runner(model)) as engine:
        among = await answers(engine, asked, at_once=True)
        assert await answers(engine, asked, at_once=False) == among


async def test_a_known_prefix_is_not_computed_again(model: CudaLlama, reference: LlamaForCausalLM) -> None:
    first = prompt(70)
    second = [*first[:66], *prompt(3)]
    async with running(*small_runner(model)) as engine:
        await generate(engine, first, max_tokens=1)
        with engine.submit(TokenRequest("x", second, GREEDY, NUM_TOKENS)) as outputs:
            told = [output async for output in outputs]
    assert told[0].cached_prompt_tokens == 66
    assert [token.id for output in told for token in output.tokens] == expected(reference, second, 1.0)


@pytest.mark.parametrize("top_k", [0, 5])
async def test_log_probabilities(model: CudaLlama, reference: LlamaForCausalLM, top_k: int) -> None:
    ids = prompt(9)
    sampling = dataclasses.replace(WIDE, top_k=top_k)
    request = TokenRequest("x", ids, sampling, 2, logprobs=True, top_logprobs=3)
    async with running(*small_runner(model)) as engine:
        tokens, _ = await collect(engine, request)
    for place, token in enumerate(tokens):
        so_far = [*ids, *(before.id for before in tokens[:place])]
        wanted = reference(torch.tensor([so_far])).logits[0, -1].log_softmax(dim=0)
        assert token.logprob == pytest.approx(float(wanted[token.id]), abs=1e-4)
        assert [candidate.token_id for candidate in token.top] == wanted.topk(3).indices.tolist()


@pytest.mark.parametrize("place", ["launch", "wait"])
async def test_a_cuda_error_is_raised_as_a_lost_device(
    model: CudaLlama, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    runner, _ = small_runner(model)
    owner, name = (runner.slots, "update") if place == "launch" else (Part, "tokens")
    monkeypatch.setattr(owner, name, fail)
    sequence = Sequence(0, TokenRequest("x", prompt(5), GREEDY, 2), longest=9, slot=0, num_prefill=5, blocks=[0])
    with pytest.raises(DeviceLost, match="illegal memory access"):
        runner.launch(Batch([sequence.next_span(5)], [])).wait()


def test_a_launch_that_failed_ends_before_another_begins(model: CudaLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copies may still read host buffers. If they find the device lost, that is told."""
    runner, _ = small_runner(model)
    ended: list[bool] = []

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    def let_end(_: CudaRunner) -> None:
        if ended:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        ended.append(True)

    monkeypatch.setattr(runner.slots, "update", fail)
    monkeypatch.setattr(CudaRunner, "_let_end", let_end)
    with pytest.raises(RuntimeError, match="no memory"):
        runner.launch(Batch([], []))
    assert ended
    with pytest.raises(DeviceLost, match="illegal memory access"):
        runner.launch(Batch([], []))


async def test_log_probabilities_do_not_depend_on_the_rows_computed_at_once(
    model: CudaLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [TokenRequest("x", prompt(5), WIDE, 2, logprobs=True, top_logprobs=count) for count in range(4)]
    found = []
    for rows_at_once in (32, 3):
        monkeypatch.setattr("index_grpc.engine.cuda.drawing.ROWS_AT_ONCE", rows_at_once)
        async with running(*small_runner(model)) as engine:
            found.append(await asyncio.gather(*(collect(engine, request) for request in requests)))
    assert found[0] == found[1]
    assert [len(token.top) for tokens, _ in found[0] for token in tokens] == [0, 0, 1, 1, 2, 2, 3, 3]


def num_preemptions(engine: Engine) -> int:
    worker: Any = engine._worker
    return int(worker._loop.scheduler.num_preemptions)


async def test_a_preempted_sequence_continues_with_the_same_text(model: CudaLlama) -> None:
    """In the end each needs two blocks, and there are three."""
    asked = [(prompt(62), SAMPLED), (prompt(61), PENALISED)]
    async with running(*small_runner(model)) as engine:
        wanted = await answers(engine, asked, at_once=True, num_tokens=12)
        assert num_preemptions(engine) == 0
    async with running(*small_runner(model, num_blocks=3)) as engine:
        assert await answers(engine, asked, at_once=True, num_tokens=12) == wanted
        assert num_preemptions(engine) > 0


@pytest.mark.parametrize("sampling", [SAMPLED, WIDE], ids=["narrow", "wide"])
async def test_only_the_sequence_that_cannot_be_computed_fails(model: CudaLlama, sampling: SamplingParams) -> None:
    async with running(*small_runner(model)) as engine:
        wanted = await generate(engine, prompt(4), sampling, NUM_TOKENS)
        call = generate(engine, prompt(4), sampling, NUM_TOKENS)
        found, failed = await asyncio.gather(call, generate(engine, [POISON], sampling), return_exceptions=True)
    assert found == wanted
    assert isinstance(failed, RequestFailed)


def failing_at(number: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that raises at its `number`-th call, after its work."""
    times = iter(range(1, 1000))

    def wrapped(*arguments: Any) -> Any:
        result = call(*arguments)
        if next(times) == number:
            raise RuntimeError("this once")
        return result

    return wrapped


@pytest.mark.parametrize(("owner", "name"), [(decoding, "draw_from_all"), (Step, "wait")])
async def test_what_a_failed_step_has_drawn_is_forgotten(
    model: CudaLlama, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """Its tokens are drawn again, from the history before the step."""
    asked = [(prompt(5), PENALISED), (prompt(6), PENALISED)]
    async with running(*small_runner(model)) as engine:
        wanted = await answers(engine, asked, at_once=True)
    monkeypatch.setattr(owner, name, failing_at(3, getattr(owner, name)))
    async with running(*small_runner(model)) as engine:
        assert await answers(engine, asked, at_once=True) == wanted


async def test_one_slot_is_enough(model: CudaLlama, reference: LlamaForCausalLM) -> None:
    """The next sequence finds nothing of the previous one."""
    only, limits = small_runner(model)
    async with running(only, dataclasses.replace(limits, max_sequences=1)) as engine:
        for length in (5, 2):
            wanted = expected(reference, prompt(length), 1.3)
            sampling = SamplingParams(temperature=0.0, repetition_penalty=1.3)
            assert await generate(engine, prompt(length), sampling, NUM_TOKENS) == wanted
