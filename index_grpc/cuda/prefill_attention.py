"""Attention for prefill: prompt tokens attend to keys and values in blocks. Flash attention, 64 queries a program.

A query's result is the same however its prompt is cut: it reads the blocks before it in order, whatever other queries
its program has. Only a value that is NaN or infinite at a later position that its program reads makes it NaN. T is the
number of tokens, of several prompts side by side.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.pool import BLOCK_TOKENS, LOG2_E, BlockPool

QUERIES = 64
"""The most queries of one program."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """T tokens of a step, and how they are divided among programs. All tensors are int32."""

    slots: Tensor
    """[T]: the slot whose blocks the token reads."""
    positions: Tensor
    """[T]."""
    programs: Tensor
    """[programs, 2]: each program's first token and number of tokens, which are adjacent tokens of one prompt."""


@triton.jit
def _keep(
    qkv, pool, tables, slots, positions, cosines, sines, block_stride, layer_start, table_stride,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Rotates a token's queries in place and stores its rotated keys and its values in its block."""
    token = tl.program_id(0)
    HALF: tl.constexpr = D // 2
    half, heads = tl.arange(0, HALF)[None, :], tl.arange(0, HEADS)[:, None]
    position, slot = tl.load(positions + token), tl.load(slots + token)
    block = tl.load(tables + slot * table_stride + position // BLOCK).to(tl.int64)
    source = qkv + (token.to(tl.int64) * (H + 2 * K) + heads) * D + half
    there = heads < H + 2 * K
    first, second = tl.load(source, mask=there, other=0.0), tl.load(source + HALF, mask=there, other=0.0)
    cosine, sine = tl.load(cosines + position * HALF + half), tl.load(sines + position * HALF + half)
    left, right = first.to(tl.float32), second.to(tl.float32)
    turned = heads < H + K
    first = tl.where(turned, left * cosine - right * sine, left).to(first.dtype)
    second = tl.where(turned, right * cosine + left * sine, right).to(second.dtype)
    tl.store(source, first, mask=heads < H)
    tl.store(source + HALF, second, mask=heads < H)
    kept = there & (heads >= H)
    target = pool + block * block_stride + layer_start + ((heads - H) * BLOCK + position % BLOCK) * D + half
    tl.store(target, first, mask=kept)
    tl.store(target + HALF, second, mask=kept)


@triton.jit
def _prefill_attention(
    qkv, pool, tables, slots, positions, programs, outputs, scale, block_stride, layer_start, table_stride,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0), tl.program_id(1)
    token, count = tl.load(programs + 2 * program), tl.load(programs + 2 * program + 1)
    slot = tl.load(slots + token)
    begin = tl.where(count > 0, tl.load(positions + token), 0)
    lane, inside, columns = tl.arange(0, QUERIES), tl.arange(0, BLOCK), tl.arange(0, D)
    there = lane < count
    rows = (token + lane).to(tl.int64)
    queries = tl.load(qkv + (rows[:, None] * (H + 2 * K) + head) * D + columns[None, :], mask=there[:, None], other=0.0)
    start = pool + layer_start + head // (H // K) * BLOCK * D
    highest = tl.full((QUERIES,), -1e30, tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, D), tl.float32)
    for index in range(tl.cdiv(begin + count, BLOCK)):
        block = tl.load(tables + slot * table_stride + index).to(tl.int64)
        places = start + block * block_stride + inside[:, None] * D + columns[None, :]
        written = (index * BLOCK + inside < begin + count)[:, None]
        keys = tl.load(places, mask=written, other=0.0)
        scores = tl.dot(queries, keys.T, input_precision="ieee") * scale
        seen = index * BLOCK + inside[None, :] <= begin + lane[:, None]
        scores = tl.where(seen, scores, -float("inf"))
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        shares = tl.exp2(scores - peak[:, None])
        kept = tl.exp2(highest - peak)
        values = tl.load(places + K * BLOCK * D, mask=written, other=0.0)
        total = tl.dot(shares.to(values.dtype), values, total * kept[:, None], input_precision="ieee")
        weight = weight * kept + tl.sum(shares, axis=1)
        highest = peak
    result = total / weight[:, None]
    to = outputs + (rows[:, None] * H + head) * D + columns[None, :]
    tl.store(to, result.to(outputs.dtype.element_ty), mask=there[:, None])


def programs_of(counts: Iterable[int]) -> list[tuple[int, int]]:
    """Returns `Tokens.programs` for chunks of prompts side by side, of `counts` tokens each."""
    programs, first = [], 0
    for count in counts:
        programs += [(first + start, min(QUERIES, count - start)) for start in range(0, count, QUERIES)]
        first += count
    return programs


def prefill_attention(
    layer: int, qkv: Tensor, cache: BlockPool, tokens: Tokens, rotary: tuple[Tensor, Tensor], outputs: Tensor
) -> Tensor:
    """Rotates queries and keys of qkv [T, H + 2K, D], stores keys and values, and fills outputs [T, H, D]."""
    pool, (num_tokens, num_heads, head_dim) = cache.pool, outputs.shape
    num_kv_heads = pool.shape[3]
    strides = (pool.stride(0), layer * pool.stride(1), cache.tables.stride(0))
    shape = {"H": num_heads, "K": num_kv_heads, "D": head_dim, "BLOCK": BLOCK_TOKENS}
    heads = triton.next_power_of_2(num_heads + 2 * num_kv_heads)
    # More stages of float32 would not fit in a small GPU's shared memory. With fewer warps, a thread would have more
    # numbers than registers: then the driver takes local memory for all threads of the GPU, which would be gigabytes.
    num_warps, num_stages = (4, 3) if qkv.element_size() == 2 else (16, 1)
    _keep[(num_tokens,)](
        qkv, pool, cache.tables, tokens.slots, tokens.positions, *rotary, *strides, **shape, HEADS=heads
    )
    _prefill_attention[(tokens.programs.shape[0], num_heads)](
        qkv, pool, cache.tables, tokens.slots, tokens.positions, tokens.programs, outputs,
        LOG2_E / head_dim**0.5, *strides, **shape, QUERIES=QUERIES, num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip
    return outputs
