"""Matrix products with what comes after them: the gate, the residual.

A row's result is the same bit for bit whatever other rows there are. Sums over K run in one order however a product is
cut: in parts of K, each from its first input to its last, the parts added up from the first to the last. M is
the number of rows, N that of outputs, K that of inputs.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.dependence import let_next_start, wait_for_previous

FEW_ROWS = 16
"""Tiles of up to so many rows, if they hold all there are, have each warp sum a part of K."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is cut: each program computes `rows` × `columns` outputs, `depth` inputs at a time."""

    rows: int
    columns: int
    depth: int
    num_warps: int = 4
    num_stages: int = 4


@triton.jit
def _silu(values):
    return values / (1.0 + tl.exp(-values))


@triton.jit(do_not_specialize=["num_rows"])
def _linear(
    inputs, weight, residual, outputs, num_rows,
    N, K: tl.constexpr, SLICE: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Writes outputs [M, N] of inputs [M, K] by weight [N, K], or [2N, K] where gated."""
    let_next_start(OVERLAPS)
    num_across, num_down = tl.cdiv(N, COLUMNS), tl.cdiv(num_rows, ROWS)
    # Programs that run together share weights or inputs: GROUP tiles down, then the next column of tiles.
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
        total = _silu(total) * total_up
    places = rows.to(tl.int64)[:, None] * N + columns[None, :]
    there = (rows < num_rows)[:, None] & (columns < N)[None, :]
    if ADDED:
        total += tl.load(residual + places, mask=there, other=0.0).to(tl.float32)
    tl.store(outputs + places, total.to(outputs.dtype.element_ty), mask=there)


@triton.jit
def _in_order(parts, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums parts [8, ROWS, COLUMNS] from the first to the last."""
    apart = tl.reshape(tl.permute(parts, (1, 2, 0)), (ROWS, COLUMNS, 2, 2, 2))
    even, odd = tl.split(apart)
    even_0, even_2 = tl.split(even)
    odd_1, odd_3 = tl.split(odd)
    part_0, part_4 = tl.split(even_0)
    part_2, part_6 = tl.split(even_2)
    part_1, part_5 = tl.split(odd_1)
    part_3, part_7 = tl.split(odd_3)
    return ((((((part_0 + part_1) + part_2) + part_3) + part_4) + part_5) + part_6) + part_7


@triton.jit
def _part(weights, places, start, K: tl.constexpr, SLICE: tl.constexpr):
    """Weights from input `start` of each slice on."""
    if K == 8 * SLICE:
        return tl.load(weights + start)
    else:
        return tl.load(weights + start, mask=places + start < K, other=0.0)


@triton.jit(do_not_specialize=["num_rows"])
def _linear_few(
    inputs, weight, residual, outputs, num_rows,
    N, K: tl.constexpr, SLICE: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """As `_linear` for no more than ROWS rows: each warp sums a slice of K. Where gated, gates and ups alternate."""
    let_next_start(OVERLAPS)
    slices, rows, depth = tl.arange(0, 8), tl.arange(0, ROWS), tl.arange(0, DEPTH)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    weight_rows = (columns // 2 + columns % 2 * N) % (2 * N) if GATED else columns % N
    places = slices[:, None, None] * SLICE + depth[None, None, :]
    weights = weight + weight_rows.to(tl.int64)[None, :, None] * K + places
    values = inputs + rows[None, :, None] * K + places
    filled = (rows < num_rows)[None, :, None]
    # Weights are read before the kernels ahead have ended, as many as registers hold.
    right = _part(weights, places, 0, K, SLICE)
    if SLICE > DEPTH:
        following = _part(weights, places, DEPTH, K, SLICE)
    wait_for_previous(OVERLAPS)
    parts = tl.zeros((8, ROWS, COLUMNS), tl.float32)
    for start in tl.static_range(0, SLICE, DEPTH):
        if start + 2 * DEPTH < SLICE:
            after_next = _part(weights, places, start + 2 * DEPTH, K, SLICE)
        left = tl.load(values + start, mask=filled & (places + start < K), other=0.0)
        parts = tl.dot(left, tl.permute(right, (0, 2, 1)), parts, input_precision="ieee")
        if start + DEPTH < SLICE:
            right = following
        if start + 2 * DEPTH < SLICE:
            following = after_next
    total = _in_order(parts, ROWS, COLUMNS)
    if GATED:
        gate, up = tl.split(tl.reshape(total, (ROWS, COLUMNS // 2, 2)))
        total = _silu(gate) * up
        columns = tl.program_id(0) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    to = rows[:, None] * N + columns[None, :]
    there = (rows < num_rows)[:, None] & (columns < N)[None, :]
    if ADDED:
        total += tl.load(residual + to, mask=there, other=0.0).to(tl.float32)
    tl.store(outputs + to, total.to(outputs.dtype.element_ty), mask=there)


def slice_of(depth: int) -> int:
    """Inputs of one part of a sum over so many: an eighth, rounded up to what is multiplied at once."""
    step = 256 if depth >= 2048 else 16
    return -(-depth // (8 * step)) * step


def linear(
    inputs: Tensor,
    weight: Tensor,
    outputs: Tensor,
    tiles: Tiles,
    *,
    sliced: bool = False,
    gated: bool = False,
    residual: Tensor | None = None,
    overlaps: bool = False,
) -> Tensor:
    """Inputs [M, K] by a weight [N, K] → outputs [M, N], which it fills and returns.

    With `gated` the weight is [2N, K], gates before ups, and the result silu(gate) · up. `residual` [M, N] is added
    and may be `outputs` itself. `sliced` sums K in parts, which is what lets few rows be computed fast.
    """
    (num_rows, depth), num_outputs = inputs.shape, outputs.shape[1]
    part = slice_of(depth)
    # A part is computed in steps that divide it: powers of two.
    step = min(tiles.depth, part & -part) if sliced else tiles.depth
    shape = {"N": num_outputs, "K": depth, "GATED": gated, "ADDED": residual is not None, "OVERLAPS": overlaps}
    cut = {"ROWS": tiles.rows, "COLUMNS": tiles.columns, "DEPTH": step}
    options = {"launch_pdl": True} if overlaps else {}
    addends = outputs if residual is None else residual
    if sliced and num_rows <= tiles.rows <= FEW_ROWS:
        num_columns = 2 * num_outputs if gated else num_outputs
        _linear_few[(triton.cdiv(num_columns, tiles.columns),)](
            inputs, weight, addends, outputs, num_rows, SLICE=part, num_warps=8, num_stages=1, **shape, **cut, **options
        )
        return outputs
    num_tiles = triton.cdiv(num_outputs, tiles.columns) * triton.cdiv(num_rows, tiles.rows)
    _linear[(num_tiles,)](
        inputs, weight, addends, outputs, num_rows, SLICE=part if sliced else 0, GROUP=8,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, **shape, **cut, **options,
    )  # fmt: skip
    return outputs
