"""Attention of one new token in each row over keys and values in blocks.

A row's earlier positions are read block by block, each a split of its own, by as many programs as there is work for;
whoever is the last to be done with a row's head puts its splits together, in order. So a result depends on its own row
alone.

pool    [blocks, layers, 2, K, BLOCK, D]     keys and values of all rows
tables  [slots, most blocks of a row]        which blocks a slot's row stands in
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.dependence import let_next_start, wait_for_previous
from index_grpc.cuda.pool import BLOCK_TOKENS, LOG2_E, BlockPool

TILE = 16
"""Positions that a program reads at once: as many as one warp's registers hold twice, so that it reads ahead."""
COMBINED = 16
"""Splits that are put together at once."""
PROGRAMS = 4096
"""At most, some 30 for each processor of a large card; each takes the next piece of work when it is done with one."""


@dataclass(frozen=True, slots=True)
class Rows:
    """M rows of a step, each of one new token. int32."""

    slots: Tensor
    """[M]: whose blocks."""
    positions: Tensor
    """[M]: the new token's; -1 in a row that is not used."""
    items: Tensor
    """[M · splits]: what there is to do: row · splits + split."""
    num_items: Tensor
    """[1]."""


@triton.jit
def _rotated(first, second, cosine, sine):
    return first * cosine - second * sine, second * cosine + first * sine


@triton.jit
def _combine(
    sums, stats, place, num_splits, SPLITS: tl.constexpr, D: tl.constexpr, COMBINED: tl.constexpr
):  # fmt: skip
    """Splits' weighted sums of one row's head as one, [D]."""
    columns = tl.arange(0, D)
    total = tl.zeros((D,), tl.float32)
    highest, weight = -1e30, 0.0
    for start in range(0, num_splits, COMBINED):
        splits = start + tl.arange(0, COMBINED)
        there = splits < num_splits
        at = place * SPLITS + splits
        peaks = tl.load(stats + 2 * at, mask=there, other=-1e30, cache_modifier=".cg")
        shares = tl.load(stats + 2 * at + 1, mask=there, other=0.0, cache_modifier=".cg")
        parts = tl.load(sums + at[:, None] * D + columns[None, :], mask=there[:, None], other=0.0, cache_modifier=".cg")
        peak = tl.maximum(highest, tl.max(peaks))
        scales = tl.exp2(peaks - peak)
        kept = tl.exp2(highest - peak)
        total = total * kept + tl.sum(parts * scales[:, None], axis=0)
        weight = weight * kept + tl.sum(shares * scales)
        highest = peak
    return total / weight


@triton.jit
def _tile(
    block_start, index, filled, K: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Both halves of some positions' keys, and their values, as far as the block is filled."""
    half, whole = tl.arange(0, D // 2)[None, :], tl.arange(0, D)[None, :]
    inside = index * TILE + tl.arange(0, TILE)[:, None]
    there = inside < filled
    keys = block_start + inside * D
    left = tl.load(keys + half, mask=there, other=0.0)
    right = tl.load(keys + D // 2 + half, mask=there, other=0.0)
    return left, right, tl.load(keys + K * BLOCK * D + whole, mask=there, other=0.0)


@triton.jit
def _decode_attention(
    qkv, pool, tables, slots, positions, cosines, sines, items, num_items, sums, stats, arrivals, outputs,
    scale, block_stride, layer_start, table_stride,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    SPLITS: tl.constexpr, COMBINED: tl.constexpr, TILE: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    let_next_start(OVERLAPS)
    HALF: tl.constexpr = D // 2
    half, whole, inside = tl.arange(0, HALF), tl.arange(0, D), tl.arange(0, TILE)
    count = tl.load(num_items) * H
    for work in range(tl.program_id(0), count, tl.num_programs(0)):
        head = work % H
        item = tl.load(items + work // H)
        row, split = item // SPLITS, item % SPLITS
        position, slot = tl.load(positions + row), tl.load(slots + row)
        group_head = head // (H // K)
        cosine = tl.load(cosines + position * HALF + half)
        sine = tl.load(sines + position * HALF + half)
        block = tl.load(tables + slot * table_stride + split).to(tl.int64)
        block_start = pool + block * block_stride + layer_start + group_head * BLOCK * D
        filled = tl.minimum(position - split * BLOCK, BLOCK)
        # What was computed in earlier steps is read before the kernels ahead have ended.
        left, right, seen = _tile(block_start, 0, filled, K, D, BLOCK, TILE)
        next_left, next_right, next_seen = _tile(block_start, 1, filled, K, D, BLOCK, TILE)
        wait_for_previous(OVERLAPS)
        # The new token's own key and value are asked for at once by who will need them.
        last = position // BLOCK
        own = qkv + row * (H + 2 * K) * D + (H + group_head) * D
        own_left = tl.load(own + half, mask=split == last, other=0.0)
        own_right = tl.load(own + HALF + half, mask=split == last, other=0.0)
        own_value = tl.load(own + K * D + whole, mask=split == last, other=0.0)
        query = qkv + row * (H + 2 * K) * D + head * D
        first, second = _rotated(
            tl.load(query + half).to(tl.float32), tl.load(query + HALF + half).to(tl.float32), cosine, sine
        )
        first, second = first * scale, second * scale
        highest, weight = -1e30, 0.0
        result = tl.zeros((D,), tl.float32)
        for index in range(tl.cdiv(filled, TILE)):
            products = left.to(tl.float32) * first[None, :] + right.to(tl.float32) * second[None, :]
            scores = tl.sum(products, axis=1)
            scores = tl.where(index * TILE + inside < filled, scores, -float("inf"))
            peak = tl.maximum(highest, tl.max(scores))
            shares = tl.exp2(scores - peak)
            kept = tl.exp2(highest - peak)
            result = result * kept + tl.sum(shares[:, None] * seen.to(tl.float32), axis=0)
            weight = weight * kept + tl.sum(shares)
            highest = peak
            left, right, seen = next_left, next_right, next_seen
            next_left, next_right, next_seen = _tile(block_start, index + 2, filled, K, D, BLOCK, TILE)
        if split == last:
            new_left, new_right = _rotated(own_left.to(tl.float32), own_right.to(tl.float32), cosine, sine)
            new_left, new_right = new_left.to(pool.dtype.element_ty), new_right.to(pool.dtype.element_ty)
            if head % (H // K) == 0:
                place = block_start + position % BLOCK * D
                tl.store(place + half, new_left)
                tl.store(place + HALF + half, new_right)
                tl.store(place + K * BLOCK * D + whole, own_value)
            score = tl.sum(new_left.to(tl.float32) * first + new_right.to(tl.float32) * second)
            peak = tl.maximum(highest, score)
            share, kept = tl.exp2(score - peak), tl.exp2(highest - peak)
            result = result * kept + share * own_value.to(tl.float32)
            weight = weight * kept + share
            highest = peak
        to = outputs + (row * H + head) * D + whole
        if last == 0:
            tl.store(to, (result / weight).to(outputs.dtype.element_ty))
        else:
            place = (row * H + head).to(tl.int64)
            tl.store(sums + (place * SPLITS + split) * D + whole, result)
            tl.store(stats + 2 * (place * SPLITS + split), highest)
            tl.store(stats + 2 * (place * SPLITS + split) + 1, weight)
            tl.debug_barrier()
            arrived = tl.atomic_add(arrivals + place, 1, sem="acq_rel")
            if arrived == last:
                tl.debug_barrier()
                combined = _combine(sums, stats, place, last + 1, SPLITS, D, COMBINED)
                tl.store(to, combined.to(outputs.dtype.element_ty))
                tl.store(arrivals + place, 0)


def num_splits(length: int) -> int:
    """Splits of a row in which the new token is the one of this number, counted from one."""
    return (length - 1) // BLOCK_TOKENS + 1


def work_items(lengths: Sequence[int], splits: int) -> "np.ndarray":
    """`Rows.items` for rows of so many positions, the new token's included, of `splits` splits each at most."""
    counts = np.array([num_splits(length) for length in lengths], dtype=np.int32)
    ends = counts.cumsum()
    within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    items: np.ndarray = np.repeat(np.arange(len(counts)) * splits, counts) + within
    return items


class Scratch:
    """What the programs of `decode_attention` leave for each other, for up to `num_rows` rows."""

    def __init__(self, num_rows: int, num_heads: int, head_dim: int, context_length: int, device: torch.device) -> None:
        self.splits = num_splits(context_length)
        places = num_rows * num_heads
        self.sums = torch.empty(places * self.splits, head_dim, device=device)
        self.stats = torch.empty(places * self.splits, 2, device=device)
        self.arrivals = torch.zeros(places, dtype=torch.int32, device=device)


def decode_attention(
    layer: int, qkv: Tensor, cache: BlockPool, rows: Rows, rotary: tuple[Tensor, Tensor], scratch: Scratch,
    outputs: Tensor, overlaps: bool = False,
) -> Tensor:  # fmt: skip
    """Rotates queries and keys of qkv [M, H + 2K, D], keeps keys and values, and attends: outputs [M, H, D]."""
    pool, (_, num_heads, head_dim) = cache.pool, outputs.shape
    num_kv_heads = pool.shape[3]
    options = {"launch_pdl": True} if overlaps else {}
    programs = min(PROGRAMS, qkv.shape[0] * scratch.splits * num_heads)
    _decode_attention[(programs,)](
        qkv, pool, cache.tables, rows.slots, rows.positions, *rotary, rows.items, rows.num_items,
        scratch.sums, scratch.stats, scratch.arrivals, outputs,
        LOG2_E / head_dim**0.5, pool.stride(0), layer * pool.stride(1), cache.tables.stride(0),
        H=num_heads, K=num_kv_heads, D=head_dim, BLOCK=BLOCK_TOKENS,
        SPLITS=scratch.splits, COMBINED=COMBINED, TILE=TILE, OVERLAPS=overlaps, num_warps=1, **options,
    )  # fmt: skip
    return outputs
