"""Attention for decoding: one new token in each row attends to keys and values in blocks.

Each block of a row is a split. For each head and split a program computes a partial result; the program that completes
the last split of a row's head combines that head's splits, in order. So a result depends only on its own row.

pool    [blocks, layers, 2, K, BLOCK, D]     keys and values of all rows
tables  [slots, most blocks of a row]        the blocks of each slot's row, in order
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

WARP_BYTES = 8192
"""Bytes of keys and values that each warp holds: a program reads its whole split at once."""
MOST_REGISTERS = 128
"""Registers of a thread: so few that four programs of the real model fit on an SM; some read while others compute."""
COMBINED = 16
"""Splits that are combined at once."""
PROGRAMS = 4096
"""The most programs, about 30 for each SM of a large GPU; each computes several items if there are more."""


@dataclass(frozen=True, slots=True)
class Rows:
    """M rows of a step, each with one new token. All tensors are int32."""

    slots: Tensor
    """[M]: the slot whose blocks the row reads."""
    positions: Tensor
    """[M]: the new token's position; -1 in an unused row."""
    items: Tensor
    """[M · splits]: the pieces of work, as row · splits + split."""
    num_items: Tensor
    """[1]: how many of the items are used."""


@triton.jit
def _rotated(numbers, partners, cosine, sine):
    """Rotates a head's numbers [D] by its position's angles; the first half of `sine` must be negated."""
    return numbers.to(tl.float32) * cosine + partners.to(tl.float32) * sine


@triton.jit
def _combine(
    sums, stats, place, num_splits, SPLITS: tl.constexpr, D: tl.constexpr, COMBINED: tl.constexpr
):  # fmt: skip
    """Combines the splits' weighted sums of one row's head into one result, [D]."""
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
def _decode_attention(
    qkv, pool, tables, slots, positions, cosines, sines, items, num_items, sums, stats, arrivals, outputs,
    scale, block_stride, layer_start, table_stride,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    SPLITS: tl.constexpr, COMBINED: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    let_next_start(OVERLAPS)
    HALF: tl.constexpr = D // 2
    columns, inside = tl.arange(0, D), tl.arange(0, BLOCK)[:, None]
    partners, angles = (columns + HALF) % D, columns % HALF
    count = tl.load(num_items) * H
    for work in range(tl.program_id(0), count, tl.num_programs(0)):
        head = work % H
        item = tl.load(items + work // H)
        row, split = item // SPLITS, item % SPLITS
        position, slot = tl.load(positions + row), tl.load(slots + row)
        last = position // BLOCK
        group_head = head // (H // K)
        cosine = tl.load(cosines + position * HALF + angles)
        sine = tl.load(sines + position * HALF + angles) * tl.where(columns < HALF, -1.0, 1.0)
        block = tl.load(tables + slot * table_stride + split).to(tl.int64)
        block_keys = pool + block * block_stride + layer_start + group_head * BLOCK * D
        block_values = block_keys + K * BLOCK * D
        # Keys and values of earlier steps are read before the kernels ahead have ended.
        there = inside < position - split * BLOCK
        keys = tl.load(block_keys + inside * D + columns, mask=there, other=0.0)
        values = tl.load(block_values + inside * D + columns, mask=there, other=0.0)
        wait_for_previous(OVERLAPS)
        query_at = qkv + (row * (H + 2 * K) + head) * D
        key_at = qkv + (row * (H + 2 * K) + H + group_head) * D
        # The programs that need the new token's own key and value load them early, together with the query.
        is_last = split == last
        key, key_partners = tl.load(key_at + columns, mask=is_last), tl.load(key_at + partners, mask=is_last)
        value = tl.load(key_at + K * D + columns, mask=is_last, other=0.0)
        query = _rotated(tl.load(query_at + columns), tl.load(query_at + partners), cosine, sine) * scale
        key = _rotated(key, key_partners, cosine, sine).to(pool.dtype.element_ty)
        if is_last & (head % (H // K) == 0):
            tl.store(block_keys + position % BLOCK * D + columns, key)
            tl.store(block_values + position % BLOCK * D + columns, value)
        scores = tl.sum(keys.to(tl.float32) * query, axis=1, keep_dims=True)
        scores = tl.where(there, scores, -float("inf"))
        own_score = tl.where(is_last, tl.sum(key.to(tl.float32) * query), -float("inf"))
        highest = tl.maximum(tl.max(scores), own_score)
        shares, own_share = tl.exp2(scores - highest), tl.exp2(own_score - highest)
        weight = tl.sum(shares) + own_share
        result = tl.sum(shares * values.to(tl.float32), axis=0) + own_share * value.to(tl.float32)
        to = outputs + (row * H + head) * D + columns
        if last == 0:
            tl.store(to, (result / weight).to(outputs.dtype.element_ty))
        else:
            place = (row * H + head).to(tl.int64)
            tl.store(sums + (place * SPLITS + split) * D + columns, result)
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
    """Returns the number of splits of a row of `length` positions, the new token's included."""
    return (length - 1) // BLOCK_TOKENS + 1


def work_items(lengths: Sequence[int], splits: int) -> "np.ndarray":
    """Returns `Rows.items` for rows of `lengths` positions, new tokens included, with up to `splits` splits each."""
    counts = np.array([num_splits(length) for length in lengths], dtype=np.int32)
    ends = counts.cumsum()
    within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    items: np.ndarray = np.repeat(np.arange(len(counts)) * splits, counts) + within
    return items


class Scratch:
    """Memory in which the programs of `decode_attention` share partial results, for up to `num_rows` rows."""

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
    """Rotates queries and keys of qkv [M, H + 2K, D], stores keys and values, and fills outputs [M, H, D]."""
    pool, (_, num_heads, head_dim) = cache.pool, outputs.shape
    num_kv_heads = pool.shape[3]
    options = {"launch_pdl": True} if overlaps else {}
    programs = min(PROGRAMS, qkv.shape[0] * scratch.splits * num_heads)
    split_bytes = 2 * BLOCK_TOKENS * head_dim * pool.element_size()
    warps = max(1, split_bytes // WARP_BYTES)
    _decode_attention[(programs,)](
        qkv, pool, cache.tables, rows.slots, rows.positions, *rotary, rows.items, rows.num_items,
        scratch.sums, scratch.stats, scratch.arrivals, outputs,
        LOG2_E / head_dim**0.5, pool.stride(0), layer * pool.stride(1), cache.tables.stride(0),
        H=num_heads, K=num_kv_heads, D=head_dim, BLOCK=BLOCK_TOKENS,
        SPLITS=scratch.splits, COMBINED=COMBINED, OVERLAPS=overlaps, num_warps=warps, maxnreg=MOST_REGISTERS, **options,
    )  # fmt: skip
    return outputs
