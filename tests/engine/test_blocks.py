"""Blocks of keys and values by property: whatever rows do, each reads what was written for it, and nothing leaks."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from index_grpc.contract import SamplingParams, Token, TokenRequest
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import Cancel, Submit
from index_grpc.engine.scheduler import Limits, Scheduler
from index_grpc.engine.sequence import Batch
from index_grpc.model.blocks import BlockCache
from index_grpc.model.config import ModelConfig
from index_grpc.native.library import BLOCK_TOKENS
from tests.engine.fake_runner import VOCAB, FakeRunner, answer

CONFIG = ModelConfig(1, 16, 16, 1, 1, 16, 10, 1024)
LONGEST = 400


class Rows:
    """A cache, and what each of its rows should hold: a number for each position."""

    def __init__(self) -> None:
        self.cache = BlockCache(CONFIG)
        self.wanted: dict[int, list[float]] = {}
        self._values = iter(range(1, 10**6))

    def begin(self, row: int, source: int = -1, num_shared: int = 0) -> None:
        self.cache.begin(row, LONGEST, source, num_shared)
        self.wanted[row] = self.wanted[source][:num_shared] if num_shared else []

    def write(self, row: int, start: int, count: int) -> None:
        """Writes as the kernels do, at the blocks' addresses."""
        self.cache.place(row, start, count)
        values = [float(next(self._values)) for _ in range(count)]
        for offset, value in enumerate(values):
            self._block(row, start + offset)[..., (start + offset) % BLOCK_TOKENS, :] = value
        self.wanted[row][start:] = values

    def check(self) -> None:
        for row, wanted in self.wanted.items():
            held = [float(self._block(row, at)[0, 0, 0, at % BLOCK_TOKENS, 0]) for at in range(len(wanted))]
            assert held == wanted
        blocks = [block for row in self.cache.rows for block in self.cache._rows[row]]
        assert self.cache.num_blocks_in_use == len(set(blocks))
        assert not set(self.cache._free) & set(blocks)

    def _block(self, row: int, position: int) -> torch.Tensor:
        return self.cache._blocks[self.cache._rows[row][position // BLOCK_TOKENS]]


@given(seed=st.integers(0, 10**6))
def test_every_row_reads_what_was_written_for_it(seed: int) -> None:
    rng, rows = random.Random(seed), Rows()
    for number in range(30):
        known = list(rows.wanted)
        action = rng.random()
        if action < 0.3 or not known:
            source = rng.choice(known) if known and rng.random() < 0.7 else -1
            rows.begin(number, source, rng.randint(0, len(rows.wanted[source])) if source >= 0 else 0)
        elif action < 0.8:
            row = rng.choice(known)
            start = rng.randint(max(0, len(rows.wanted[row]) - 90), len(rows.wanted[row]))
            rows.write(row, start, rng.randint(1, 90))
        else:
            row = rng.choice(known)
            rows.cache.release(row)
            del rows.wanted[row]
        rows.check()
    for row in rows.wanted:
        rows.cache.release(row)
    assert rows.cache.num_blocks_in_use == 0


def test_rows_that_begin_the_same_share_whole_blocks() -> None:
    rows = Rows()
    rows.begin(0)
    rows.write(0, 0, 3 * BLOCK_TOKENS + 5)
    rows.begin(1, source=0, num_shared=2 * BLOCK_TOKENS + 5)
    assert rows.cache.num_blocks_in_use == 4
    rows.write(1, 2 * BLOCK_TOKENS + 5, 1)
    assert rows.cache.num_blocks_in_use == 5
    rows.cache.release(0)
    del rows.wanted[0]
    assert rows.cache.num_blocks_in_use == 3
    rows.check()


def test_memory_is_taken_once() -> None:
    rows = Rows()
    for _ in range(5):
        rows.begin(0)
        rows.write(0, 0, 2 * BLOCK_TOKENS)
        rows.cache.release(0)
    assert len(rows.cache._blocks) == 2


def test_the_address_of_a_place_is_that_of_its_blocks() -> None:
    cache = BlockCache(CONFIG)
    cache.begin(0, LONGEST)
    place = cache.place(0, BLOCK_TOKENS - 1, 2)
    assert list(place.blocks) == [cache._blocks[block].data_ptr() for block in cache._rows[0]]


def test_a_row_that_goes_on_lets_go_what_stood_behind() -> None:
    rows = Rows()
    rows.begin(0)
    rows.write(0, 0, 4 * BLOCK_TOKENS)
    rows.begin(0, source=0, num_shared=BLOCK_TOKENS + 1)
    assert rows.cache.num_blocks_in_use == 2
    rows.write(0, BLOCK_TOKENS + 1, BLOCK_TOKENS)
    assert rows.cache.num_blocks_in_use == 3
    rows.check()


class BlockRunner(FakeRunner):
    """Keeps a cache of blocks beside what it computes."""

    def __init__(self, chunk_tokens: int) -> None:
        super().__init__(chunk_tokens)
        self.cache = BlockCache(CONFIG)

    def run(self, batch: Batch) -> list[Token]:
        for span in batch:
            sequence = span.sequence
            if span.start == sequence.num_cached:
                source = sequence.match.prefix.row if sequence.match else -1
                self.cache.begin(sequence.row, sequence.num_reserved, source, sequence.num_cached)
            self.cache.place(sequence.row, span.start, span.count)
        return super().run(batch)

    def release(self, row: int) -> None:
        super().release(row)
        self.cache.release(row)


@pytest.mark.parametrize("seed", range(20))
def test_rows_never_take_up_more_than_the_budget(seed: int) -> None:
    """Conversations whose answers come back whole, shortened or not at all, and callers who leave."""
    rng = random.Random(seed)
    limits = Limits(400, 3, 100, max_cache_tokens=9 * BLOCK_TOKENS, chunk_tokens=64, grain_tokens=1, block_tokens=64)
    runner = BlockRunner(limits.chunk_tokens)
    loop = Loop(Scheduler(limits), runner, deliver=lambda news: None)
    prompts: list[list[int]] = [[9] * rng.randint(1, 100)]
    for number in range(60):
        beginning = rng.choice(prompts)
        prompt = [*beginning[: rng.randint(1, 200)], *(rng.randrange(5, VOCAB) for _ in range(rng.randint(1, 150)))]
        max_tokens = rng.choice([1, 20, 200])
        loop.follow(Submit(number, TokenRequest("x", prompt, SamplingParams(), max_tokens)))
        prompts.append([*prompt, *answer(prompt, max_tokens)])
        for _ in range(rng.randint(0, 40)):
            if loop.sequences:
                loop.step()
            assert runner.cache.num_blocks_in_use * BLOCK_TOKENS <= limits.max_cache_tokens
        if rng.random() < 0.2 and loop.sequences:
            loop.follow(Cancel(rng.choice(list(loop.sequences))))
    while loop.sequences:
        loop.step()
    loop.check_books()
