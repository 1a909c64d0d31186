"""Matrix products against PyTorch's. A row does not depend on how the product is cut or on the other rows."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from index_grpc.cuda.linear import Tiles, linear, slice_of
from index_grpc.cuda.norm import Norm, normed

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
ONE, FEW, MANY = Tiles(1, 16, 32), Tiles(4, 16, 32), Tiles(32, 16, 16)
"""In tiles that hold all rows, each warp sums a part of the inputs; in others, all inputs are summed in order."""
SIZES = [(1, 48, 32), (3, 40, 64), (4, 33, 80), (37, 40, 64)]
"""Rows, outputs and inputs; most are not multiples of any tile."""


class Product:
    """Random operands of one shape, and their products."""

    def __init__(self, device: torch.device, rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(rows * outputs + inputs)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        self.inputs, self.residual = random(rows, inputs), random(rows, outputs)
        self.weight, self.gated_weight = random(outputs, inputs), random(2 * outputs, inputs)

    def plain(self, tiles: Tiles, *, sliced: bool, rows: slice = slice(None)) -> Tensor:
        return linear(self.inputs[rows], self.weight, torch.empty_like(self.residual[rows]), tiles, sliced=sliced)

    def gated(self, tiles: Tiles, *, sliced: bool) -> Tensor:
        outputs = torch.empty_like(self.residual)
        return linear(self.inputs, self.gated_weight, outputs, tiles, sliced=sliced, gated=True)

    def added(self, tiles: Tiles, *, sliced: bool) -> Tensor:
        """The product, added to the outputs in place."""
        outputs = self.residual.clone()
        return linear(self.inputs, self.weight, outputs, tiles, sliced=sliced, residual=outputs)


def check(found: Tensor, wanted: Tensor) -> None:
    tolerance = TOLERANCES[found.dtype]
    torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_are_those_of_pytorch(device: torch.device, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    product = Product(device, *size, dtype)
    inputs, residual = product.inputs.float(), product.residual.float()
    plain = inputs @ product.weight.float().T
    gates, ups = (inputs @ product.gated_weight.float().T).chunk(2, dim=1)
    for tiles, sliced in [(FEW, True), (MANY, True), (MANY, False)]:
        check(product.plain(tiles, sliced=sliced), plain)
        check(product.gated(tiles, sliced=sliced), functional.silu(gates) * ups)
        check(product.added(tiles, sliced=sliced), plain + residual)


@pytest.mark.parametrize("inputs", [64, 80, 272])
def test_a_row_is_the_same_with_tiles_for_few_and_for_many_rows(device: torch.device, inputs: int) -> None:
    """Bit for bit, whatever else is in its tile. With 272 inputs, the last parts are shorter or empty."""
    product = Product(device, 4, 40, inputs, torch.float32)
    wanted = product.plain(MANY, sliced=True)
    assert torch.equal(product.plain(FEW, sliced=True), wanted)
    assert torch.equal(product.plain(Tiles(4, 8, 256), sliced=True), wanted)
    assert torch.equal(product.plain(Tiles(64, 32, 32), sliced=True), wanted)
    for row in range(4):
        alone = slice(row, row + 1)
        assert torch.equal(product.plain(ONE, sliced=True, rows=alone), wanted[alone])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("inputs", [64, 80, 272, 1040])
def test_a_norm_inside_the_product_changes_no_bit(device: torch.device, inputs: int, dtype: torch.dtype) -> None:
    """A single row is normalised inside the product, others before it; both equal PyTorch's norm."""
    product = Product(device, 3, 40, inputs, dtype)
    norm = Norm(torch.linspace(0.5, 2, inputs).to(device, dtype), 1e-5)
    plain = functional.rms_norm(product.inputs.float(), [inputs], norm.gain.float(), norm.eps)
    check(normed(product.inputs, norm), plain)
    for gated, weight in [(False, product.weight), (True, product.gated_weight)]:
        few, many = torch.empty_like(product.residual), torch.empty_like(product.residual)
        linear(product.inputs, weight, many, MANY, sliced=True, norm=norm, gated=gated)
        linear(product.inputs, weight, few, FEW, sliced=True, norm=norm, gated=gated)
        assert torch.equal(few, many)
        alone = linear(product.inputs[:1], weight, torch.empty_like(few[:1]), ONE, sliced=True, norm=norm, gated=gated)
        assert torch.equal(alone, many[:1])
        separate = torch.empty_like(few)
        linear(normed(product.inputs, norm), weight, separate, MANY, sliced=True, gated=gated)
        assert torch.equal(separate, many)


@pytest.mark.parametrize("sliced", [True, False])
def test_a_row_does_not_depend_on_its_neighbours(device: torch.device, sliced: bool) -> None:
    """Not even if they are NaN."""
    product = Product(device, 19, 40, 64, torch.float32)
    whole = product.plain(MANY, sliced=sliced)
    assert torch.equal(product.plain(MANY, sliced=sliced, rows=slice(7, 16)), whole[7:16])
    product.inputs[:7] = torch.nan
    torch.testing.assert_close(product.plain(MANY, sliced=sliced)[7:], whole[7:], rtol=0, atol=0)


@pytest.mark.parametrize("depth", [16, 32, 272, 2048, 5888])
def test_parts_cover_all_inputs(depth: int) -> None:
    """There are eight parts, whose sizes are multiples of 16."""
    assert 8 * slice_of(depth) >= depth
    assert slice_of(depth) % 16 == 0
