"""Prefixes that are kept and reused: how much a request can reuse, and what is evicted."""

import dataclasses
import random
from typing import Any

import pytest

from index_grpc.engine.blocks import Blocks
from index_grpc.engine.prefixes import KeptPrefixes, Prefix, longest_match, num_equal
from tests.engine.driver import ANYWHERE, LIMITS, LoopDriver
from tests.engine.fake_runner import VOCAB, FakeRunner


def test_a_conversation_continues_in_its_blocks() -> None:
    """The next turn computes only what is new; a whole chunk is 8 tokens."""
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    first = [11] * 17
    driver.submit(0, first, max_tokens=3)
    driver.finish()
    driver.submit(1, [*first, *driver.tokens(0), 12], max_tokens=1)
    driver.finish()
    assert [driver.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert driver.num_kept == 1


def test_an_answer_is_reused_if_it_is_computed_like_a_prompt() -> None:
    """All that was computed is reused: the prompt, and the answer except for its last token."""
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    driver.submit(0, [11] * 17, max_tokens=3)
    driver.finish()
    driver.submit(1, [*([11] * 17), *driver.tokens(0), 12], max_tokens=1)
    driver.finish()
    assert [driver.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 19]
    assert driver.num_kept == 1


def test_a_changed_answer_replaces_the_kept_one_but_a_prompt_does_not() -> None:
    """If the answer in the history has another end than the computed one, only the tokens before it are reused."""
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    driver.submit(0, [11] * 17, max_tokens=8)
    driver.finish()
    other_end = [*([11] * 17), *driver.tokens(0)[:4], VOCAB + 1, 12]
    driver.submit(1, other_end, max_tokens=1)
    driver.finish()
    assert driver.last_output(1).cached_prompt_tokens == 21
    assert driver.num_kept == 1
    driver.submit(2, [*([11] * 10), 12], max_tokens=1)
    driver.finish()
    assert driver.last_output(2).cached_prompt_tokens == 10
    assert driver.num_kept == 2


def test_a_prefix_that_is_too_short_is_not_shared() -> None:
    limits = dataclasses.replace(ANYWHERE, least_shared_tokens=12)
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), limits, frozenset())
    for number, num_same in enumerate((17, 11, 12)):
        driver.submit(number, [*([11] * num_same), 12 + number], max_tokens=1)
        driver.finish()
    assert [driver.last_output(number).cached_prompt_tokens for number in range(3)] == [0, 0, 12]


class CountedIds(list[int]):
    """Ids that count how many of them were read."""

    num_reads = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        CountedIds.num_reads += len(found) if isinstance(place, slice) else 1
        return found


def test_a_common_prefix_is_compared_once() -> None:
    """With common instructions, the search reads about as many ids as the prompt has, for any number of prefixes."""
    common, num_prefixes = [7] * 1000, 200
    prefixes = [Prefix(number, CountedIds([*common, 100 + number]), 1001, 1001, []) for number in range(num_prefixes)]
    match = longest_match([*common, 100 + num_prefixes // 2, 9], prefixes, 1)
    assert match is not None
    assert (match.prefix.number, match.num_tokens) == (num_prefixes // 2, 1001)
    assert CountedIds.num_reads < 3 * len(common)


@pytest.mark.parametrize("multiple", [1, 4])
def test_the_longest_match_is_found_whatever_comes_first(multiple: int) -> None:
    rng = random.Random(multiple)
    for _ in range(500):
        lists = [[rng.randint(0, 1) for _ in range(rng.randint(1, 12))] for _ in range(6)]
        prompt = [rng.randint(0, 1) for _ in range(rng.randint(1, 12))]
        prefixes = [Prefix(number, ids, len(ids), len(ids), []) for number, ids in enumerate(lists)]
        shared = [num_equal(prompt, ids, min(len(ids), len(prompt) - 1)) // multiple * multiple for ids in lists]
        match = longest_match(prompt, prefixes, multiple)
        assert (match.prefix.number if match else None) == (shared.index(max(shared)) if max(shared) else None)
        assert (match.num_tokens if match else 0) == max(shared)


def test_the_prefix_of_a_running_sequence_is_shared() -> None:
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, num_blocks=15), frozenset())
    for number in range(2):
        driver.submit(number, [11] * 17, max_tokens=5)
        for _ in range(3):
            driver.step_if_busy()
    driver.finish()
    assert [driver.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert driver.tokens(0) == driver.tokens(1)


def test_kept_prefixes_are_evicted_oldest_first() -> None:
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, num_blocks=5), frozenset())
    for number, token_id in enumerate((11, 12, 13, 12, 11)):
        driver.submit(number, [token_id] * 17, max_tokens=3)
        driver.finish()
    assert [driver.last_output(number).cached_prompt_tokens for number in range(5)] == [0, 0, 0, 16, 0]


def test_what_many_share_counts_once() -> None:
    """With a common beginning of 4 blocks and an end of one block each, 3 callers take 7 blocks and not 15."""
    limits = dataclasses.replace(ANYWHERE, num_blocks=9)
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), limits, frozenset())
    driver.submit(0, [11] * 33, max_tokens=7)
    while not driver.reports.get(0):
        driver.step_if_busy()
    for number in (1, 2):
        driver.submit(number, [*([11] * 32), 12 + number], max_tokens=7)
        driver.step_if_busy()
    assert driver.loop.scheduler.allocator.blocks.num_used == 7
    driver.finish()
    assert [driver.last_output(number).cached_prompt_tokens for number in range(3)] == [0, 32, 32]
    assert driver.num_preemptions == 0


def test_evicting_a_prefix_in_use_frees_no_block() -> None:
    """Its eviction frees no block, so the next prefix must be evicted as well."""
    blocks = Blocks(4)
    kept = KeptPrefixes(blocks, most=9)
    shared, own = [blocks.take()], [blocks.take()]
    blocks.share(shared)
    for number, held in enumerate((shared, own)):
        kept.keep(Prefix(number, [1] * 8, 8, 8, held))
    assert (blocks.num_used, blocks.num_idle, blocks.num_free) == (1, 1, 2)
    kept.evict()
    assert (blocks.num_used, blocks.num_idle, blocks.num_free) == (1, 1, 2)
    kept.evict()
    assert (blocks.num_used, blocks.num_idle, blocks.num_free) == (1, 0, 3)
    assert blocks.take() == own[0]


def test_without_reuse_nothing_is_kept() -> None:
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, prefix_reuse=False), frozenset())
    for number in range(2):
        driver.submit(number, [11] * 17, max_tokens=3)
        driver.finish()
    assert driver.last_output(1).cached_prompt_tokens == 0
    assert not driver.num_kept


def test_a_request_that_must_wait_for_its_first_chunk_stays_as_it_was() -> None:
    """Its prefix is there, but the step's last tokens are too few for a whole chunk after it."""
    driver = LoopDriver(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    driver.submit(0, [5] * 20, max_tokens=1)
    driver.finish()
    driver.submit(1, [9] * 20, max_tokens=1)
    driver.submit(2, [5] * 30, max_tokens=1)
    while 1 not in driver.reports:
        driver.step_if_busy()
    waiting = driver.loop.scheduler.waiting[2]
    assert (waiting.num_computed, waiting.num_prefill) == (0, 0)
    driver.finish()
    assert driver.last_output(2).cached_prompt_tokens == 16
