"""Matrix products fused with the norm before them and the gate and the residual after them.

A row's result is the same bit for bit whatever the other rows are. A sum over K has one order however a product is cut
into tiles: each part of K is summed from its first input to its last, then the parts are added from the first to the
last. M is the number of rows, N that of outputs, K that of inputs.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.dependence import let_next_start, wait_for_previous
from index_grpc.cuda.linear_few import linear_few, silu
from index_grpc.cuda.norm import NUM_WARPS, Norm, normed

FEW_ROWS = 16
"""A sliced product whose rows fit in one tile of up to this many rows is computed by `linear_few`."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is cut: each program computes `rows` × `columns` outputs, from `depth` inputs at a time."""

    rows: int
    columns: int
    depth: int
    num_warps: int = 4
    num_stages: int = 4


@triton.jit(do_not_specialize=["num_rows"])
def _linear(
    inputs, weight, residual, outputs, num_rows,
    N, K: tl.constexpr, SLICE: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Multiplies inputs [M, K] by a weight [N, K], or [2N, K] if GATED, into outputs [M, N]."""
    let_next_start(OVERLAPS)
    num_across, num_down = tl.cdiv(N, COLUMNS), tl.cdiv(num_rows, ROWS)
    # Programs that run at the same time share weights or inputs: GROUP tiles down, then the next column of tiles.
    program = tl.program_id(0)
    in_group = GROUP * num_across
    first_down = program // in_group * GROUP
    group = min(num_down - first_down, GROUP)
    tile_down = first_down + program % in_group % group
    tile_across = program % in_group // group
    rows = tile_down * ROWS + tl.arange(0, ROWS)
    columns = tile_across * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    whole: tl.constexpr = K % DEPTH == 0
    weights = weight + (columns % N).to(tl.int64)[:, None] * K + depth[None, :]
    values = inputs + (rows % num_rows).to(tl.int64)[:, None] * K + depth[None, :]
    wait_for_previous(OVERLAPS)
    part = tl.zeros((ROWS, COLUMNS), tl.float32)
    part_up = tl.zeros((ROWS, COLUMNS), tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total_up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, DEPTH):
        inside = (start + depth < K)[None, :]
        left = tl.load(values + start) if whole else tl.load(values + start, mask=inside, other=0.0)
        right = tl.load(weights + start) if whole else tl.load(weights + start, mask=inside, other=0.0)
        part = tl.dot(left, right.T, part, input_precision="ieee")
        if GATED:
            ups = weights + N.to(tl.int64) * K + start
            up = tl.load(ups) if whole else tl.load(ups, mask=inside, other=0.0)
            part_up = tl.dot(left, up.T, part_up, input_precision="ieee")
        if SLICE:
            ends = ((start + DEPTH) % SLICE == 0) | (start + DEPTH >= K)
            total = tl.where(ends, total + part, total)
            part = tl.where(ends, 0.0, part)
            if GATED:
                total_up = tl.where(ends, total_up + part_up, total_up)
                part_up = tl.where(ends, 0.0, part_up)
    if not SLICE:
        total, total_up = part, part_up
    if GATED:
        total = silu(total) * total_up
    places = rows.to(tl.int64)[:, None] * N + columns[None, :]
    there = (rows < num_rows)[:, None] & (columns < N)[None, :]
    if ADDED:
        total += tl.load(residual + places, mask=there, other=0.0).to(tl.float32)
    tl.store(outputs + places, total.to(outputs.dtype.element_ty), mask=there)


def slice_of(depth: int) -> int:
    """Returns the inputs of one part of a sum over `depth`: an eighth, rounded up to a multiple of 256 or 16."""
    step = 256 if depth >= 2048 else 16
    return -(-depth // (8 * step)) * step


def linear(
    inputs: Tensor,
    weight: Tensor,
    outputs: Tensor,
    tiles: Tiles,
    *,
    sliced: bool = False,
    norm: Norm | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
    overlaps: bool = False,
    upcoming: Tensor | None = None,
) -> Tensor:
    """Multiplies inputs [M, K] by a weight [N, K]; fills and returns outputs [M, N].

    `norm` is applied to the inputs first. With `gated` the weight is [2N, K], gates before ups, and the result is
    silu(gate) · up. `residual` [M, N] is added and may be `outputs` itself. `sliced` sums K in parts, which makes
    products of few rows fast. `upcoming` [parts, numbers] is the weight that is read next, whose parts are read in
    parallel; if kernels overlap, a product of few rows prefetches it into the L2 cache.
    """
    (num_rows, depth), num_outputs = inputs.shape, outputs.shape[1]
    part = slice_of(depth)
    is_few = sliced and num_rows <= tiles.rows <= FEW_ROWS
    norms_itself = norm is not None and is_few and tiles.rows == 1
    if norm is not None and not norms_itself:
        inputs = normed(inputs, norm, overlaps)
    # A part of K is computed in steps of a power of two that divides it.
    step = min(tiles.depth, part & -part) if sliced else tiles.depth
    shape = {"N": num_outputs, "K": depth, "GATED": gated, "ADDED": residual is not None, "OVERLAPS": overlaps}
    cut = {"ROWS": tiles.rows, "COLUMNS": tiles.columns, "DEPTH": step}
    options = {"launch_pdl": True} if overlaps else {}
    addends = outputs if residual is None else residual
    if is_few:
        num_columns = 2 * num_outputs if gated else num_outputs
        width = triton.next_power_of_2(depth) if norms_itself else 0
        gain, eps = (norm.gain, norm.eps) if norm is not None else (inputs, 0.0)
        next_weight = weight[:0] if upcoming is None else upcoming  # [parts, numbers of a part]
        linear_few[(triton.cdiv(num_columns, tiles.columns),)](
            inputs, gain, weight, addends, outputs, next_weight, eps, num_rows, next_weight.shape[1],
            SLICE=part, NORM_WIDTH=width, UPCOMING_PARTS=len(next_weight),
            num_warps=NUM_WARPS, num_stages=1, **shape, **cut, **options,
        )  # fmt: skip
        return outputs
    num_tiles = triton.cdiv(num_outputs, tiles.columns) * triton.cdiv(num_rows, tiles.rows)
    _linear[(num_tiles,)](
        inputs, weight, addends, outputs, num_rows, SLICE=part if sliced else 0, GROUP=8,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, **shape, **cut, **options,
    )  # fmt: skip
    return outputs
