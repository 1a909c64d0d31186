"""Products of few rows, whose time goes into reading the weights: each of eight warps sums a part of K.

M is the number of rows, N that of outputs, K that of inputs.
"""

import triton
import triton.language as tl

from index_grpc.cuda.dependence import let_next_start, wait_for_previous
from index_grpc.cuda.norm import inverse_rms
from index_grpc.cuda.prefetch import prefetch


@triton.jit
def silu(values):
    """Returns SiLU of the values, the activation of a gate."""
    return values / (1.0 + tl.exp(-values))


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
def _part(numbers, places, start: tl.constexpr, K: tl.constexpr, SLICE: tl.constexpr):
    """Loads weights or inputs from place `start` of each slice on; returns 0 past the end of the slices."""
    if start >= SLICE:
        return 0.0
    elif K == 8 * SLICE:
        return tl.load(numbers + start)
    else:
        return tl.load(numbers + start, mask=places + start < K, other=0.0)


@triton.jit
def _factor(inputs, eps, K: tl.constexpr, WIDTH: tl.constexpr):
    """Returns the norm's factor for a row, summed in the same order as in the norm's own kernel."""
    columns = tl.arange(0, WIDTH)
    return inverse_rms(tl.load(inputs + columns, mask=columns < K, other=0.0).to(tl.float32), eps, K)


@triton.jit
def _parts_of_one(
    inputs, gain, weights, ahead, places, eps, K: tl.constexpr, SLICE: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, NORM_WIDTH: tl.constexpr,
):  # fmt: skip
    """Returns the parts' sums [8, 1, COLUMNS] for one row, whose few registers allow loading three steps ahead.

    NORM_WIDTH is the power of two that holds the row if it is to be normed, else 0.
    """
    values, gains = inputs + places, gain + places
    right, second_right, third_right = ahead
    left = _part(values, places, 0, K, SLICE)
    second_left = _part(values, places, DEPTH, K, SLICE)
    third_left = _part(values, places, 2 * DEPTH, K, SLICE)
    if NORM_WIDTH:
        scale = _part(gains, places, 0, K, SLICE)
        factor = _factor(inputs, eps, K, NORM_WIDTH)
    parts = tl.zeros((8, 1, COLUMNS), tl.float32)
    for start in tl.static_range(0, SLICE, DEPTH):
        if NORM_WIDTH:
            left = (left.to(tl.float32) * factor * scale.to(tl.float32)).to(left.dtype)
            scale = _part(gains, places, start + DEPTH, K, SLICE)
        parts = tl.dot(left, tl.permute(right, (0, 2, 1)), parts, input_precision="ieee")
        left, second_left, third_left = second_left, third_left, _part(values, places, start + 3 * DEPTH, K, SLICE)
        right, second_right, third_right = (
            second_right, third_right, _part(weights, places, start + 3 * DEPTH, K, SLICE),
        )  # fmt: skip
    return parts


@triton.jit
def _parts_of_few(
    inputs, weights, ahead, places, num_rows, K: tl.constexpr, SLICE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Returns the parts' sums [8, ROWS, COLUMNS] for up to ROWS rows."""
    rows = tl.arange(0, ROWS)[None, :, None]
    values = inputs + rows * K + places
    right, second_right, _ = ahead
    parts = tl.zeros((8, ROWS, COLUMNS), tl.float32)
    for start in tl.static_range(0, SLICE, DEPTH):
        third_right = _part(weights, places, start + 2 * DEPTH, K, SLICE)
        left = tl.load(values + start, mask=(rows < num_rows) & (places + start < K), other=0.0)
        parts = tl.dot(left, tl.permute(right, (0, 2, 1)), parts, input_precision="ieee")
        right, second_right = second_right, third_right
    return parts


@triton.jit(do_not_specialize=["num_rows"])
def linear_few(
    inputs, gain, weight, residual, outputs, upcoming, eps, num_rows, upcoming_size,
    N, K: tl.constexpr, SLICE: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, OVERLAPS: tl.constexpr, NORM_WIDTH: tl.constexpr,
    UPCOMING_PARTS: tl.constexpr,
):  # fmt: skip
    """Multiplies inputs [M, K], at most ROWS rows, by a weight [N, K] into outputs [M, N].

    If GATED the weight is [2N, K], gates before ups; the columns of a tile alternate between them.
    """
    let_next_start(OVERLAPS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    weight_rows = (columns // 2 + columns % 2 * N) % (2 * N) if GATED else columns % N
    places = tl.arange(0, 8)[:, None, None] * SLICE + tl.arange(0, DEPTH)[None, None, :]
    weights = weight + weight_rows.to(tl.int64)[None, :, None] * K + places
    OUTPUTS: tl.constexpr = COLUMNS // 2 if GATED else COLUMNS
    rows, out = tl.arange(0, ROWS), tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    to = rows[:, None] * N + out[None, :]
    there = (rows < num_rows)[:, None] & (out < N)[None, :]
    # Weights are read before the kernels ahead have ended, as far as registers allow: a third step only for one row.
    ahead = (
        _part(weights, places, 0, K, SLICE),
        _part(weights, places, DEPTH, K, SLICE),
        _part(weights, places, 2 * DEPTH, K, SLICE) if ROWS == 1 else 0.0,
    )
    if OVERLAPS and UPCOMING_PARTS:
        prefetch(upcoming, upcoming_size, UPCOMING_PARTS)
    wait_for_previous(OVERLAPS)
    addend = tl.load(residual + to, mask=there, other=0.0).to(tl.float32) if ADDED else 0.0
    if ROWS == 1:
        parts = _parts_of_one(inputs, gain, weights, ahead, places, eps, K, SLICE, COLUMNS, DEPTH, NORM_WIDTH)
    else:
        parts = _parts_of_few(inputs, weights, ahead, places, num_rows, K, SLICE, ROWS, COLUMNS, DEPTH)
    total = _in_order(parts, ROWS, COLUMNS)
    if GATED:
        gate, up = tl.split(tl.reshape(total, (ROWS, COLUMNS // 2, 2)))
        total = silu(gate) * up
    if ADDED:
        total += addend
    tl.store(outputs + to, total.to(outputs.dtype.element_ty), mask=there)
