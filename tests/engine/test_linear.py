"""Products whose rows do not depend on each other, and what happens if no such product is available."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from index_grpc.datatypes import SamplingParams
from index_grpc.loading import load_runner
from index_grpc.model import llama
from index_grpc.model.linear import Linear, agrees, fixed_rows_linear, packed_linear, rows_are_independent
from tests.conftest import settings
from tests.engine.kernels import PYTORCH, compute_with
from tests.engine.running import generate, generate_all, running

WEIGHT = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [packed_linear, fixed_rows_linear])
def test_products_are_right_at_every_size(kind: Callable[[Tensor], Linear]) -> None:
    assert agrees(kind, WEIGHT)
    linear = kind(WEIGHT)
    for num_rows in (1, 63, 64, 65, 200):
        rows = torch.randn(num_rows, 64)
        torch.testing.assert_close(linear(rows), functional.linear(rows, WEIGHT))


@pytest.mark.parametrize("kind", [packed_linear, fixed_rows_linear])
@pytest.mark.parametrize("shape", [(2304, 768), (768, 2048), (2048, 5888)], ids=str)
def test_rows_are_independent_at_real_shapes(kind: Callable[[Tensor], Linear], shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    assert rows_are_independent(kind(weight), shape[1], weight, most_rows=96)


def test_a_wrong_or_missing_product_is_found_out() -> None:
    def wrong(weight: Tensor) -> Linear:
        return packed_linear(weight * 1.001)

    def missing(weight: Tensor) -> Linear:
        linear: Linear = torch.ops.mkldnn.no_such_operator(weight)
        return linear

    assert not agrees(wrong, WEIGHT)
    assert not agrees(missing, WEIGHT)


def test_a_row_that_depends_on_others_is_detected() -> None:
    def leaking(rows: Tensor) -> Tensor:
        return rows + rows.mean() * 1e-6

    assert not rows_are_independent(leaking, 64, WEIGHT, most_rows=96)
    assert rows_are_independent(packed_linear(WEIGHT), 64, WEIGHT, most_rows=96)


@pytest.mark.parametrize("kinds", [[], ["fixed"]], ids=["one sequence at a time", "fixed rows"])
async def test_answers_do_not_depend_on_the_batch_with_a_fallback(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kinds: list[str]
) -> None:
    """Without the packed product, answers are still the same alone and in a batch."""

    def plain(weight: Tensor) -> Linear:
        return lambda rows: functional.linear(rows, weight) + 1e-7 * rows.mean()  # each row depends on all others

    chosen = [fixed_rows_linear] if kinds else [plain]
    monkeypatch.setattr(llama, "linear_kinds", lambda device, dtype: chosen)
    compute_with(monkeypatch, PYTORCH)
    loaded = load_runner(settings(checkpoint))
    async with running(loaded.runner, loaded.limits) as engine:
        prompts = [list(range(5, 5 + length)) for length in (1, 3, 64, 70, 100, 130)]
        sampling = SamplingParams(seed=11)
        together = await generate_all(engine, prompts, sampling)
        assert together == [await generate(engine, ids, sampling) for ids in prompts]


def test_the_runner_knows_if_every_self_check_fails(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "rows_are_independent", lambda *_: False)
    compute_with(monkeypatch, PYTORCH)
    assert not load_runner(settings(checkpoint)).runner.rows_independent
