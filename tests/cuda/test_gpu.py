"""What only a GPU can test: recorded steps, kernels that overlap, matrix units, and everything from the settings on."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from index_grpc.cuda.linear import Tiles, linear
from index_grpc.cuda.norm import Norm
from index_grpc.datatypes import SamplingParams
from index_grpc.engine.cuda.drawing import row_logprobs
from index_grpc.engine.cuda.shapes import Shapes
from index_grpc.engine.engine import Engine
from index_grpc.engine.in_flight import Launched
from index_grpc.engine.sequence import Batch
from index_grpc.loading import load_runner
from index_grpc.model.card import Card
from index_grpc.model.config import position_bytes, read_config
from tests.checkpoints import make_checkpoint, reference_model
from tests.conftest import settings
from tests.engine.running import generate, generate_all, running
from tests.engine.test_parity import NUM_PROMPTS, expected, random_prompts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

NUM_SEQUENCES, NUM_TOKENS = 64, 40
BLOCKS_OF_FEW = 40
"""64 answers need about 100 blocks in the end."""
WAYS_TO_DRAW: list[dict[str, Any]] = [{}, {"top_k": 0, "top_p": 0.9}, {"frequency_penalty": 1.0}]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with heads of the real size."""
    directory = tmp_path_factory.mktemp("wide") / "checkpoint"
    return make_checkpoint(directory, hidden_size=512, intermediate_size=1472, num_layers=3)


def asked(count: int = NUM_SEQUENCES) -> list[tuple[list[int], SamplingParams]]:
    """Prompts of all lengths up to two blocks, with all kinds of sampling parameters."""
    rng = random.Random(9)
    prompts = [[rng.randrange(5, 480) for _ in range(rng.randint(1, 130))] for _ in range(NUM_SEQUENCES)]
    ways = [SamplingParams(seed=number, temperature=1.3, **WAYS_TO_DRAW[number % 3]) for number in range(NUM_SEQUENCES)]
    return list(zip(prompts, ways, strict=True))[:count]


async def answers(engine: Engine, calls: list[tuple[list[int], SamplingParams]]) -> list[list[int]]:
    return list(await asyncio.gather(*(generate(engine, *call, NUM_TOKENS) for call in calls)))


@pytest.mark.parametrize("penalty", [1.0, 1.1])
async def test_greedy_tokens_are_those_of_transformers(checkpoint: Path, penalty: float) -> None:
    """In float32, all at once and each alone."""
    prompts = random_prompts(read_config(checkpoint).vocab_size)
    sampling = SamplingParams(temperature=0.0, repetition_penalty=penalty)
    reference = reference_model(checkpoint)
    wanted = [expected(reference, ids, penalty) for ids in prompts]
    loaded = load_runner(settings(checkpoint, device="cuda", dtype="float32", max_sequences=NUM_PROMPTS))
    async with running(loaded.runner, loaded.limits) as engine:
        assert await generate_all(engine, prompts, sampling) == wanted
        assert [await generate(engine, ids, sampling) for ids in prompts[:8]] == wanted[:8]


@pytest.fixture(scope="module")
async def among_others(wide: Path) -> list[list[int]]:
    """The texts of all requests at once, in bfloat16, with room for all; a second time they are the same."""
    loaded = load_runner(settings(wide, device="cuda", max_sequences=NUM_SEQUENCES))
    assert loaded.model.dtype == "bfloat16"
    async with running(loaded.runner, loaded.limits) as engine:
        texts = await answers(engine, asked())
        assert await answers(engine, asked()) == texts
        assert [(await answers(engine, [call]))[0] for call in asked(12)] == texts[:12]
    return texts


async def test_seeded_texts_do_not_depend_on_the_batch(wide: Path, among_others: list[list[int]]) -> None:
    """The texts of a server for few sequences, with smaller steps, are the same."""
    loaded = load_runner(settings(wide, device="cuda", max_sequences=3))
    async with running(loaded.runner, loaded.limits) as engine:
        assert await answers(engine, asked(12)) == among_others[:12]


async def test_kernels_that_overlap_compute_what_kernels_in_turn_do(
    wide: Path, among_others: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None reads what a kernel before it has not written yet, or writes what one before it still reads."""
    monkeypatch.setattr(Card, "overlaps", property(lambda _: False))
    loaded = load_runner(settings(wide, device="cuda", max_sequences=NUM_SEQUENCES))
    async with running(loaded.runner, loaded.limits) as engine:
        assert await answers(engine, asked()) == among_others
        assert [(await answers(engine, [call]))[0] for call in asked(12)] == among_others[:12]


async def test_a_preempted_sequence_continues_with_the_same_text(wide: Path, among_others: list[list[int]]) -> None:
    few = BLOCKS_OF_FEW * 64 * position_bytes(read_config(wide), 2)
    loaded = load_runner(settings(wide, device="cuda", max_sequences=NUM_SEQUENCES, kv_memory_bytes=few))
    assert loaded.limits.num_blocks == BLOCKS_OF_FEW
    async with running(loaded.runner, loaded.limits) as engine:
        assert await answers(engine, asked()) == among_others
        worker: Any = engine._worker
        assert worker._loop.scheduler.num_preemptions > 0


def first_rows(num_inputs: int, tiles: dict[int, Tiles], *, sliced: bool, norms: bool = False) -> list[Tensor]:
    """The first row of a product in bfloat16, before rounding, for each number of rows and its tiles."""
    device, most = torch.device("cuda:0"), max(tiles)
    generator = torch.Generator(device).manual_seed(1)
    rows = torch.randn(most, num_inputs, generator=generator, device=device).bfloat16()
    weight = torch.randn(2048, num_inputs, generator=generator, device=device).bfloat16()
    gain = torch.rand(num_inputs, generator=generator, device=device).bfloat16()
    norm = Norm(gain, 1e-5) if norms else None
    outputs = {count: torch.empty(count, 2048, device=device) for count in tiles}
    return [linear(rows[:count], weight, outputs[count], tiles[count], sliced=sliced, norm=norm)[0] for count in tiles]


@pytest.fixture
def shapes() -> Shapes:
    return Shapes(torch.bfloat16, Card.of(torch.device("cuda:0")))


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("inputs", [2048, 5888])
def test_a_row_has_the_same_bits_by_every_tile(shapes: Shapes, inputs: int, norms: bool) -> None:
    """Few rows and many rows are multiplied by different units, and a single row is normalised inside the product."""
    products = {count: shapes.decode(count) for count in (1, 2, 4, 8, 16, 17, 64, 256)}
    tiles = {count: one.qkv if inputs == 2048 else one.down for count, one in products.items()}
    found = first_rows(inputs, tiles, sliced=True, norms=norms)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("inputs", [2048, 5888])
def test_a_prompts_token_has_the_same_bits_by_every_tile(shapes: Shapes, inputs: int) -> None:
    """The tiles depend on how its prompt is cut."""
    found = first_rows(inputs, {count: shapes.prefill(count) for count in (16, 65, 512, 1024)}, sliced=False)
    assert all(torch.equal(one, found[0]) for one in found)


def test_a_row_has_the_same_log_probabilities_wherever_it_stands() -> None:
    """The size of the vocabulary is odd, so that rows begin at addresses of every alignment."""
    generator = torch.Generator("cuda").manual_seed(1)
    row = torch.randn(1, 65029, generator=generator, device="cuda") * 4
    chosen, values, _ = row_logprobs(row.expand(9, -1).contiguous(), torch.arange(9, device="cuda") * 0, 3)
    assert torch.equal(chosen, chosen[:1].expand(9))
    assert torch.equal(values, values[:1].expand(9, -1))


async def test_no_launch_waits_for_the_device(wide: Path) -> None:
    """Requests with all parameters begin, grow and end at any time."""
    loaded = load_runner(settings(wide, device="cuda", max_sequences=NUM_SEQUENCES))
    launch = loaded.runner.launch

    def strictly(batch: Batch) -> Launched:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    loaded.runner.launch = strictly  # type: ignore[assignment, method-assign]
    async with running(loaded.runner, loaded.limits) as engine:
        answers = [
            generate(engine, ids, sampling, NUM_TOKENS, logprobs=True, top_logprobs=3) for ids, sampling in asked()
        ]
        assert all(len(answer) == NUM_TOKENS for answer in await asyncio.gather(*answers))
