"""Properties of blocks: their numbers of holders, and that the native kernels' cache keeps what is written to them."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from index_grpc.datatypes import Copy
from index_grpc.engine.blocks import Blocks
from index_grpc.model.blocks import BlockCache
from index_grpc.model.config import ModelConfig
from index_grpc.model.rows import RowCache
from index_grpc.native.library import BLOCK_TOKENS

CONFIG = ModelConfig(1, 16, 16, 1, 1, 16, 10, 100)
NUM_BLOCKS = 6


@given(seed=st.integers(0, 10**6))
def test_holders_are_counted(seed: int) -> None:
    rng, blocks = random.Random(seed), Blocks(NUM_BLOCKS)
    users: list[int] = []
    kept: list[int] = []
    for _ in range(60):
        action = rng.choice(["take", "share", "release", "keep", "take over"])
        if action == "take" and blocks.num_free:
            users.append(blocks.take())
        elif action == "share" and users + kept:
            users.append(rng.choice(users + kept))
            blocks.share([users[-1]])
        elif action in ("release", "keep") and users:
            block = users.pop(rng.randrange(len(users)))
            (blocks.keep if action == "keep" else blocks.release)([block])
            kept += [block] if action == "keep" else []
        elif action == "take over" and kept:
            users.append(kept.pop(rng.randrange(len(kept))))
            blocks.take_over([users[-1]])
        assert blocks.num_used == len(set(users))
        assert blocks.num_idle == len(set(kept) - set(users))
        assert blocks.num_free == NUM_BLOCKS - len(set(users + kept))
        assert all(blocks.num_holders(block) == count for block, count in Counter(users + kept).items())


def test_the_block_released_last_is_taken_first() -> None:
    blocks = Blocks(4)
    first, second = blocks.take(), blocks.take()
    blocks.release([first])
    blocks.release([second])
    assert [blocks.take() for _ in range(4)] == [second, first, 2, 3]
    with pytest.raises(RuntimeError, match="all 4 blocks are taken"):
        blocks.take()


def numbers(start: int, count: int) -> torch.Tensor:
    """Keys and values that differ at each position, [1, 2, 1, count, 16]."""
    return torch.arange(start, start + count, dtype=torch.float32)[:, None].expand(1, 2, 1, count, 16)


def test_blocks_keep_what_is_written() -> None:
    cache = BlockCache(CONFIG)
    cache.place([3, 1], 0, 2 * BLOCK_TOKENS)
    for block in (3, 1):
        cache._block(block).copy_(numbers(100 * block, BLOCK_TOKENS))
    cache.copy(Copy(source=1, target=5, num_tokens=7))
    cache.place([3, 5], BLOCK_TOKENS + 7, 1)
    assert torch.equal(cache._block(5)[:, :, :, :7], numbers(100, 7))
    assert torch.equal(cache._block(3), numbers(300, BLOCK_TOKENS))


def test_memory_is_taken_when_a_block_is_first_used() -> None:
    cache = BlockCache(CONFIG)
    for blocks in ([7], [7, 2], [2]):
        cache.place(blocks, 0, len(blocks) * BLOCK_TOKENS)
    assert set(cache._blocks) == {7, 2}


def test_the_addresses_of_a_place_are_those_of_its_blocks() -> None:
    cache = BlockCache(CONFIG)
    place = cache.place([4, 2], BLOCK_TOKENS - 1, 2)
    assert place.addresses == [cache._block(block).data_ptr() for block in (4, 2)]


def test_a_row_is_a_block_for_a_whole_context() -> None:
    cache = RowCache(CONFIG, torch.device("cpu"), torch.float32)
    place = cache.place([1], 10, 90)
    assert (place.row.shape[3], place.end) == (100, 100)
    place.row.copy_(numbers(0, 100))
    cache.copy(Copy(source=1, target=0, num_tokens=40))
    assert torch.equal(cache.place([0], 40, 1).row[:, :, :, :40], numbers(0, 40))
