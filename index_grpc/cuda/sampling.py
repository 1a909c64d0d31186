"""Draws the next token of each row on the device, for rows with a top_k small enough to leave few candidates.

The rules are those of `model.drawing`, in float32. A row's draw depends only on its own row.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.dependence import let_next_start, wait_for_previous

CHUNK = 1024
"""Logits that one program searches."""
MAX_CANDIDATES = 64
"""The largest top_k of a row that is drawn here."""
NUM_PARAMS = 8
"""Columns of the table of sampling parameters: temperature, top_p, min_p, the penalties for repetition, frequency and
presence, the number of candidates, and one unused."""

BELOW_ONE = 1 - 2**-24
"""The largest number below 1 in float32."""

NOT_A_NUMBER = -1
"""Stored in place of a token if the model's output is not a number."""


@triton.jit
def _ordered(scores, ids):
    """Packs scores and ids into integers: larger for higher scores, then for lower ids; NaN is the largest."""
    bits = scores.to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    bits = tl.where(scores != scores, 0x7FFFFFFF, bits)
    return (bits.to(tl.int64) << 32) | (0x7FFFFFFF - ids).to(tl.int64)


@triton.jit
def _candidates(
    logits, slots, params, occurred, counts, found, V, logits_stride, CHUNK: tl.constexpr, MAX_CANDIDATES: tl.constexpr,
    NUM_PARAMS: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Finds the likeliest tokens of a chunk of a row after penalties, as many as its slot has candidates."""
    let_next_start(OVERLAPS)
    row, chunk = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    row_params = params + slot * NUM_PARAMS
    repetition, frequency, presence = tl.load(row_params + 3), tl.load(row_params + 4), tl.load(row_params + 5)
    wanted = tl.load(row_params + 6).to(tl.int32)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    there = ids < V
    wait_for_previous(OVERLAPS)
    scores = tl.load(logits + row.to(tl.int64) * logits_stride + ids, mask=there, other=-float("inf"))
    told = tl.load(occurred + slot * V + ids, mask=there, other=0) != 0
    factor = tl.where(told, repetition, 1.0)
    penalised = tl.where(scores < 0, scores * factor, scores / factor)
    highest = 3.4028234663852886e38
    clamped = tl.minimum(tl.maximum(penalised, -highest), highest)
    scores = tl.where((factor == 1.0) | (penalised != penalised), scores, clamped)
    if (frequency != 0.0) | (presence != 0.0):
        count = tl.load(counts + slot * V + ids, mask=there, other=0.0)
        scores = scores - count * frequency - tl.where(count > 0, presence, 0.0)
    keys = tl.where(there, _ordered(scores, ids), -0x7FFFFFFFFFFFFFFF)
    to = found + (row * tl.num_programs(1) + chunk) * MAX_CANDIDATES
    for place in range(wanted):
        best = tl.max(keys)
        tl.store(to + place, best)
        keys = tl.where(keys == best, -0x7FFFFFFFFFFFFFFF, keys)


@triton.jit(do_not_specialize=["num_chunks"])
def _draw(
    found, slots, draws, params, samples, occurred, counts, last_ids, drawn, V, num_chunks,
    CHUNKS: tl.constexpr, MAX_CANDIDATES: tl.constexpr, NUM_PARAMS: tl.constexpr, NONE: tl.constexpr,
    BELOW_ONE: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    let_next_start(OVERLAPS)
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    draw, samples_here = tl.minimum(tl.load(draws + row), BELOW_ONE), tl.load(samples + row)
    row_params = params + slot * NUM_PARAMS
    temperature, top_p, min_p = tl.load(row_params), tl.load(row_params + 1), tl.load(row_params + 2)
    wanted = tl.load(row_params + 6).to(tl.int32)
    chunks, places = tl.arange(0, CHUNKS), tl.arange(0, MAX_CANDIDATES)
    wait_for_previous(OVERLAPS)
    at = found + (row * num_chunks + chunks[:, None]) * MAX_CANDIDATES + places[None, :]
    there = (chunks[:, None] < num_chunks) & (places[None, :] < wanted)
    keys = tl.load(at, mask=there, other=-0x7FFFFFFFFFFFFFFF)
    best = tl.full((MAX_CANDIDATES,), -0x7FFFFFFFFFFFFFFF, tl.int64)
    for place in range(wanted):
        highest = tl.max(keys)
        best = tl.where(places == place, highest, best)
        keys = tl.where(keys == highest, -0x7FFFFFFFFFFFFFFF, keys)
    bits = (best >> 32).to(tl.int32)
    ids = 0x7FFFFFFF - (best & 0xFFFFFFFF).to(tl.int32)
    scores = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)
    first = tl.max(tl.where(places == 0, scores, -float("inf")))
    is_number = (tl.max(tl.where(places == 0, bits, -0x7FFFFFFF)) < 0x7F800000) & (first > -float("inf"))
    given = (places < wanted) & (best != -0x7FFFFFFFFFFFFFFF)
    scaled = tl.where(given, (scores - first) / temperature, -float("inf"))
    shares = tl.exp(tl.where(is_number, scaled, 0.0))
    shares = shares / tl.sum(shares)
    before = tl.cumsum(shares) - shares
    largest = tl.max(tl.where(places == 0, shares, 0.0))
    kept = (given & (before < top_p) & (shares >= min_p * largest)) | (places == 0)
    reached = tl.cumsum(tl.where(kept, shares, 0.0))
    all_reached = tl.max(reached)
    # Sums are rounded, and not all in one order, so the place found may lie past the last token kept.
    last_kept = tl.max(tl.where(kept, places, 0))
    place = tl.minimum(tl.sum((reached <= draw * all_reached).to(tl.int32)), last_kept)
    chosen = tl.sum(tl.where(places == place, ids, 0))
    if samples_here != 0:
        tl.store(drawn + row, tl.where(is_number, chosen, NONE))
        if is_number:
            tl.store(last_ids + slot, chosen)
            tl.store(occurred + slot * V + chosen, 1)
            tl.store(counts + slot * V + chosen, tl.load(counts + slot * V + chosen) + 1.0)


@dataclass(frozen=True, slots=True)
class Draws:
    """Slots and random numbers with which B rows are drawn."""

    slots: Tensor
    """[B], int32."""
    numbers: Tensor
    """[B], float32: random numbers in [0, 1); one that was rounded to 1 counts as BELOW_ONE."""
    samples: Tensor
    """[B], int32: 1 if a token is to be drawn here for the row, else 0."""


@dataclass(frozen=True, slots=True)
class SlotState:
    """The sampling parameters, the token history and the last drawn token of each slot."""

    params: Tensor
    """[slots, NUM_PARAMS], float32."""
    occurred: Tensor
    """[slots, V], bool: tokens of prompt and answer."""
    counts: Tensor
    """[slots, V], float32: how often each token occurs in the answer."""
    last_ids: Tensor
    """[slots], int32."""


def draw(logits: Tensor, draws: Draws, state: SlotState, drawn: Tensor, overlaps: bool = False) -> None:
    """Draws for the rows of logits [B, V], float32, that `draws` selects: into `drawn` [B], int32, and `state`."""
    num_rows, vocab_size = logits.shape
    num_chunks = triton.cdiv(vocab_size, CHUNK)
    occurred = state.occurred.view(torch.uint8)
    found = torch.empty(num_rows * num_chunks * MAX_CANDIDATES, dtype=torch.int64, device=logits.device)
    options = {"launch_pdl": True} if overlaps else {}
    shape = {"MAX_CANDIDATES": MAX_CANDIDATES, "NUM_PARAMS": NUM_PARAMS, "OVERLAPS": overlaps}
    _candidates[(num_rows, num_chunks)](
        logits, draws.slots, state.params, occurred, state.counts, found, vocab_size, logits.stride(0),
        CHUNK=CHUNK, **shape, **options,
    )  # fmt: skip
    _draw[(num_rows,)](
        found, draws.slots, draws.numbers, state.params, draws.samples, occurred, state.counts, state.last_ids,
        drawn, vocab_size, num_chunks, CHUNKS=triton.next_power_of_2(num_chunks), NONE=NOT_A_NUMBER,
        BELOW_ONE=BELOW_ONE, num_warps=8, **shape, **options,
    )  # fmt: skip
