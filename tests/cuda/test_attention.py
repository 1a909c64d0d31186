"""Attention over blocks against PyTorch's. A sequence's bits depend neither on the batch nor on how it is cut."""

import pytest
import torch
from torch import Tensor

from tests.cuda.memory import Memory, Piece

POSITIONS = [0, 1, 63, 64, 65, 130]
"""Positions of new tokens: in the first split, at its edges, in later splits."""
FAR = 1100
"""A position with more splits than are combined at once."""
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def check(found: Tensor, wanted: Tensor) -> None:
    tolerance = TOLERANCES[found.dtype]
    torch.testing.assert_close(found.float(), wanted.float(), rtol=tolerance, atol=tolerance)


def answering(memory: Memory, positions: list[int]) -> tuple[list[Piece], list[Tensor]]:
    """The last token of each sequence, whose other tokens are in its blocks already; and each sequence as a whole."""
    whole = [memory.random(position + 1, seed=position) for position in positions]
    for slot, qkv in enumerate(whole):
        memory.fill(slot, qkv[:-1])
    return [Piece(slot, len(qkv) - 1, qkv[-1:]) for slot, qkv in enumerate(whole)], whole


@pytest.mark.parametrize(("kv_heads", "dtype"), [(1, torch.float32), (2, torch.bfloat16)])
@pytest.mark.parametrize("head_dim", [32, 128, 256])
def test_new_tokens_attend_to_all_earlier_ones(
    device: torch.device, kv_heads: int, dtype: torch.dtype, head_dim: int
) -> None:
    """With heads that one warp holds, and with heads that several warps share."""
    memory = Memory(device, kv_heads, len(POSITIONS) + 1, dtype, head_dim)
    pieces, whole = answering(memory, [*POSITIONS, FAR])
    for found, qkv in zip(memory.decode([*pieces]), whole, strict=True):
        check(found, memory.attend(qkv)[-1])


def test_a_new_token_is_written_to_its_position_only(device: torch.device) -> None:
    memory = Memory(device, 1, len(POSITIONS))
    pieces, whole = answering(memory, POSITIONS)
    wanted = memory.cache.pool.clone()
    memory.decode([*pieces])
    found = memory.cache.pool.clone()
    for slot, qkv in enumerate(whole):
        for stored, kept in zip(memory.stored(slot, len(qkv)), memory.kept(qkv), strict=True):
            check(stored, kept)
        memory.fill(slot, qkv)
    wanted = torch.where(wanted.isnan(), memory.cache.pool, wanted)
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_a_row_is_the_same_alone_and_among_others(device: torch.device) -> None:
    """Unused rows, whose queries are NaN, affect no other row."""
    memory = Memory(device, 1, len(POSITIONS))
    pieces, _ = answering(memory, POSITIONS)
    among = memory.decode([None, *pieces[:3], None, *pieces[3:], None])
    together = torch.cat([among[1:4], among[5:-1]])
    assert not among[[0, 4, -1]].any()
    for row in (0, 2, 5):
        assert torch.equal(memory.decode([pieces[row]])[0], together[row])


@pytest.mark.parametrize(("kv_heads", "dtype"), [(1, torch.float32), (2, torch.bfloat16)])
def test_prompts_side_by_side(device: torch.device, kv_heads: int, dtype: torch.dtype) -> None:
    """Tokens that belong to no sequence follow them."""
    memory = Memory(device, kv_heads, 3, dtype)
    whole = [memory.random(length, seed=length) for length in (1, 130, 40)]
    outputs = memory.prefill([Piece(slot, 0, qkv) for slot, qkv in enumerate(whole)], unused=5)
    for slot, (found, qkv) in enumerate(zip(outputs, whole, strict=True)):
        check(found, memory.attend(qkv))
        for stored, kept in zip(memory.stored(slot, len(qkv)), memory.kept(qkv), strict=True):
            check(stored, kept)
        after, _ = memory.stored(slot, len(qkv) + 1)
        assert after[len(qkv) :].isnan().all()


@pytest.mark.parametrize("cut", [1, 64, 65])
def test_a_prompt_may_be_cut_anywhere(device: torch.device, cut: int) -> None:
    """The rest is computed together with another prompt, with the same bits as if all were computed at once, alone."""
    memory = Memory(device, 1, 3)
    whole, other = memory.random(110, seed=1), memory.random(20, seed=2)
    (wanted,) = memory.prefill([Piece(0, 0, whole)])
    (first,) = memory.prefill([Piece(1, 0, whole[:cut])])
    _, rest = memory.prefill([Piece(2, 0, other), Piece(1, cut, whole[cut:])])
    assert torch.equal(torch.cat([first, rest]), wanted)
    for found, there in zip(memory.stored(1, 110), memory.stored(0, 110), strict=True):
        assert torch.equal(found, there)
