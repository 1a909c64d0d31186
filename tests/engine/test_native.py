"""The native kernels: they compute right, and a token's bits depend neither on the batch, the cuts nor the threads."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from index_grpc.engine.runner import Cache
from index_grpc.errors import StartupError
from index_grpc.loading import load_runner
from index_grpc.model.blocks import BlockCache
from index_grpc.model.checkpoint import load_weights
from index_grpc.model.config import ModelConfig, position_bytes, read_config
from index_grpc.model.linear import fixed_rows_linear
from index_grpc.model.llama import TorchLlama
from index_grpc.model.native import NativeLlama, shortened
from index_grpc.model.native_weights import load_native
from index_grpc.model.weights import LlamaWeights
from index_grpc.native import library
from tests.checkpoints import make_checkpoint
from tests.conftest import settings
from tests.engine.kernels import NATIVE, PYTORCH, compute_with

MOST_TOKENS = 160

SHAPES: list[dict[str, Any]] = [
    {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4},
    {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "model_type": "llama"},
    {"hidden_size": 96, "num_heads": 3, "num_kv_heads": 1, "model_type": "llama", "intermediate_size": 200},
    {"hidden_size": 256, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 300},
    {"hidden_size": 144, "num_heads": 3, "num_kv_heads": 3, "intermediate_size": 33, "tie_word_embeddings": True},
    {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "dtype": torch.float32},
    {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "dtype": torch.float16},
]
"""Heads of 16, 32, 48 and 128, with and without groups; sizes that fill no whole panel; each type of weights."""


@dataclass
class Text:
    """Tokens of one sequence, with the cache blocks for them."""

    ids: list[int]
    blocks: Sequence[int]
    num_computed: int = 0


class ModelDriver:
    """A model, a cache and some texts."""

    def __init__(self, model: NativeLlama | TorchLlama, *lengths: int) -> None:
        rng, vocab_size = random.Random(sum(lengths)), model.config.vocab_size
        self.model, self.cache = model, cast("Cache", model.new_cache())
        num_blocks = -(-MOST_TOKENS // model.block_tokens)
        self.texts = [
            Text([rng.randrange(vocab_size) for _ in range(length)], range(first, first + num_blocks))
            for first, length in zip(range(0, num_blocks * len(lengths), num_blocks), lengths, strict=True)
        ]

    def step(self, *spans: tuple[int, int]) -> list[Tensor]:
        """Computes the next `count` tokens of each text; returns the logits [count, vocab_size] of each text."""
        counts = [count for _, count in spans]
        return list(self.ask(range(sum(counts)), *spans).split(counts))

    def ask(self, sampled: Sequence[int], *spans: tuple[int, int]) -> Tensor:
        """Like `step`, but returns only the logits [S, vocab_size] of the S tokens with the numbers `sampled`."""
        ids, places = [], []
        for number, count in spans:
            text = self.texts[number]
            end = text.num_computed + count
            ids += text.ids[text.num_computed : end]
            places.append(self.cache.place(text.blocks, text.num_computed, count))
            text.num_computed = end
        return self.model.forward(ids, places, sampled).clone()

    def all_at_once(self) -> Tensor:
        """The logits of every token."""
        return torch.cat(self.step(*((number, len(text.ids)) for number, text in enumerate(self.texts))))


def cuts(rng: random.Random, total: int) -> Iterator[int]:
    while total:
        count = min(total, rng.choice([1, 1, 2, 7, 16, 17, 40]))
        total -= count
        yield count


@pytest.fixture(params=SHAPES, ids=lambda shape: "-".join(f"{value}" for value in shape.values()))
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return make_checkpoint(tmp_path / "shape", **{"num_layers": 2, "intermediate_size": 160} | request.param)


def native(directory: Path, kernels: str, num_threads: int = 2, *, as_int8: bool = False) -> NativeLlama:
    return load_native(directory, read_config(directory), NATIVE[kernels], num_threads, as_int8)


def pytorch(directory: Path) -> TorchLlama:
    config, device = read_config(directory), torch.device("cpu")
    weights = LlamaWeights(config)
    with torch.inference_mode():
        load_weights(directory, config, weights, device, torch.float32)
        return TorchLlama(config, weights, fixed_rows_linear, rows_independent=True)


@pytest.mark.parametrize("kernels", NATIVE)
def test_logits_are_those_of_pytorch(directory: Path, kernels: str) -> None:
    model, reference = native(directory, kernels), pytorch(directory)
    for number in (1, 3, 40):
        found, wanted = [ModelDriver(one, number, 90).all_at_once() for one in (model, reference)]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_int8", [False, True])
@pytest.mark.parametrize("kernels", NATIVE)
def test_a_token_is_the_same_in_any_batch_and_with_any_cuts(directory: Path, kernels: str, as_int8: bool) -> None:
    """Compares each text, computed alone in one step, with all texts cut at random and mixed with each other."""
    model, rng = native(directory, kernels, as_int8=as_int8), random.Random(1)
    lengths = (150, 64, 1, 33, 100)
    alone = ModelDriver(model, *lengths)
    wanted = [alone.step((number, length))[0] for number, length in enumerate(lengths)]
    mixed = ModelDriver(model, *lengths)
    found: list[list[Tensor]] = [[] for _ in lengths]
    pending = {number: cuts(rng, length) for number, length in enumerate(lengths)}
    while pending:
        turn = [(number, count) for number in pending if rng.random() < 0.7 and (count := next(pending[number], 0))]
        for (number, _), part in zip(turn, mixed.step(*turn), strict=True):
            found[number].append(part)
        pending = {i: counts for i, counts in pending.items() if mixed.texts[i].num_computed < lengths[i]}
    for number in range(len(lengths)):
        assert torch.equal(torch.cat(found[number]), wanted[number])


@pytest.mark.parametrize("sampled", [[], [0], [69], [6, 70, 109], [109]])
@pytest.mark.parametrize("kernels", NATIVE)
def test_tokens_that_are_not_sampled_change_nothing(directory: Path, kernels: str, sampled: list[int]) -> None:
    """Tokens whose logits are not asked for change neither the logits of the others nor those of later tokens."""
    model = native(directory, kernels)
    whole, part = ModelDriver(model, 75, 45), ModelDriver(model, 75, 45)
    wanted = torch.cat(whole.step((0, 70), (1, 40)))
    assert torch.equal(part.ask(sampled, (0, 70), (1, 40)), wanted[sampled])
    for found, later in zip(part.step((0, 5), (1, 5)), whole.step((0, 5), (1, 5)), strict=True):
        assert torch.equal(found, later)


@pytest.mark.parametrize("kernels", NATIVE)
def test_threads_change_nothing(directory: Path, kernels: str) -> None:
    one, two, five = [ModelDriver(native(directory, kernels, number), 5, 70).all_at_once() for number in (1, 2, 5)]
    assert torch.equal(one, two)
    assert torch.equal(one, five)


@pytest.mark.parametrize("kernels", NATIVE)
def test_old_contents_of_the_cache_are_not_read(directory: Path, kernels: str) -> None:
    """Blocks are reused; here they contain NaN."""
    driver = ModelDriver(native(directory, kernels), 70)
    wanted = driver.all_at_once()
    cache = driver.cache
    assert isinstance(cache, BlockCache)
    for block in cache._blocks.values():
        block.fill_(torch.nan)
    driver.texts[0].num_computed = 0
    assert torch.equal(driver.all_at_once(), wanted)


@pytest.mark.parametrize("kernels", NATIVE)
def test_int8_is_close(directory: Path, kernels: str) -> None:
    found, wanted = (
        ModelDriver(native(directory, kernels, as_int8=True), 90).all_at_once(),
        ModelDriver(pytorch(directory), 90).all_at_once(),
    )
    error = ((found - wanted).norm() / wanted.norm()).item()
    assert 1e-4 < error < 0.03  # 8 bits in groups of 32; without any error, nothing would have been rounded


def test_weights_are_stored_as_bfloat16_if_nothing_is_lost() -> None:
    exact = torch.randn(8, 8).bfloat16()
    for weight in (exact, exact.float(), exact.half().bfloat16().half()):
        assert shortened(weight).dtype == torch.bfloat16
        assert torch.equal(shortened(weight).float(), weight.float())
    lossy = torch.randn(8, 8)
    assert torch.equal(shortened(lossy), lossy)
    assert torch.equal(shortened(lossy.half()), lossy.half().float())


@pytest.mark.parametrize("kernels", NATIVE)
def test_unsupported_heads_are_detected(kernels: str) -> None:
    assert NATIVE[kernels].fit(ModelConfig(1, 64, 64, 2, 2, 32, 100, 32))
    assert not NATIVE[kernels].fit(ModelConfig(1, 40, 64, 2, 2, 20, 100, 32))
    assert NATIVE[kernels].fit(ModelConfig(1, 1024, 64, 64, 1, 16, 100, 32))
    assert not NATIVE[kernels].fit(ModelConfig(1, 2048, 64, 128, 1, 16, 100, 32))


@pytest.mark.parametrize("kernels", NATIVE)
def test_a_shape_that_does_not_fit_is_computed_with_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kernels: str
) -> None:
    compute_with(monkeypatch, kernels)
    odd = make_checkpoint(tmp_path / "odd", hidden_size=40, num_heads=2, num_kv_heads=2)
    loaded = load_runner(settings(odd))
    assert loaded.limits.alignment_tokens == loaded.limits.chunk_tokens
    assert "heads of 20" in caplog.text
    with pytest.raises(StartupError, match=r"--quantize int8 is not possible here: .*heads of 20.*; leave it out"):
        load_runner(settings(odd, quantize="int8"))


def test_without_native_kernels_pytorch_computes(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compute_with(monkeypatch, PYTORCH)
    assert load_runner(settings(checkpoint)).limits.alignment_tokens == 64
    assert "C++ compiler" in caplog.text
    with pytest.raises(StartupError, match="--quantize int8 is not possible here"):
        load_runner(settings(checkpoint, quantize="int8"))
    with pytest.raises(StartupError, match="in float32 only"):
        load_runner(settings(checkpoint, quantize="int8", dtype="bfloat16"))


@pytest.mark.skipif(not NATIVE, reason="no native kernels were built here")
def test_the_native_kernels_are_used_by_default(checkpoint: Path) -> None:
    loaded = load_runner(settings(checkpoint, quantize="int8"))
    assert (loaded.limits.alignment_tokens, loaded.model.dtype, loaded.model.quantization) == (1, "float32", "int8")


@pytest.mark.skipif(not NATIVE, reason="no native kernels were built here")
def test_memory_must_suffice_for_all_blocks_of_a_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less memory, a request for the whole context would wait for ever."""
    directory = make_checkpoint(tmp_path / "short", hidden_size=64, num_heads=4, num_kv_heads=4, context_length=100)
    config = read_config(directory)
    block_bytes = 64 * position_bytes(config, 4)
    for share, flags in ((0.8, {}), (0.5, {"kv_memory_fraction": 0.5})):
        enough = int(2 * block_bytes / share) + 1
        available = "index_grpc.loading.sizing.available_bytes"
        monkeypatch.setattr(available, lambda: enough)  # noqa: B023 - called before it changes
        assert load_runner(settings(directory, **flags)).limits.num_blocks == 2
        monkeypatch.setattr(available, lambda: enough - 2)  # noqa: B023
        with pytest.raises(StartupError, match=f"--kv-memory-fraction {share} .*one conversation of 100 tokens needs"):
            load_runner(settings(directory, **flags))
    assert load_runner(settings(directory, kv_memory_bytes=3 * block_bytes)).limits.max_cache_tokens == 3 * 64
    needed = f"--kv-memory-bytes {2 * block_bytes - 1} is too little: .* needs {2 * block_bytes} bytes"
    with pytest.raises(StartupError, match=needed):
        load_runner(settings(directory, kv_memory_bytes=2 * block_bytes - 1))


@pytest.mark.skipif(not NATIVE, reason="no native kernels were built here")
def test_kernels_that_were_built_from_other_sources_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    build = next(build for build in ("avx2", "avx512") if library.open_library(build) is not None)
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    with pytest.raises(StartupError, match="was built from other sources; install index-grpc again"):
        library.open_library(build)
