"""Prefixes that are kept and reused: what a request finds computed, and what gives way."""

import dataclasses

from index_grpc.engine.blocks import Blocks
from index_grpc.engine.prefixes import KeptPrefixes, Prefix
from tests.engine.desk import ANYWHERE, LIMITS, Desk
from tests.engine.fake_runner import VOCAB, FakeRunner


def test_a_conversation_continues_in_its_blocks() -> None:
    """The next turn computes only what is new; a whole chunk is 8 tokens."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    first = [11] * 17
    desk.submit(0, first, max_tokens=3)
    desk.finish()
    desk.submit(1, [*first, *desk.tokens(0), 12], max_tokens=1)
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert desk.num_kept == 1


def test_an_answer_is_reused_where_cuts_change_nothing() -> None:
    """All that was computed is there: the prompt and the answer but for its last token."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    desk.submit(0, [11] * 17, max_tokens=3)
    desk.finish()
    desk.submit(1, [*([11] * 17), *desk.tokens(0), 12], max_tokens=1)
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 19]
    assert desk.num_kept == 1


def test_an_answer_told_otherwise_gives_way_but_a_prompt_does_not() -> None:
    """The history may hold another end of the answer than was computed; it goes on from where they part."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    desk.submit(0, [11] * 17, max_tokens=8)
    desk.finish()
    other_end = [*([11] * 17), *desk.tokens(0)[:4], VOCAB + 1, 12]
    desk.submit(1, other_end, max_tokens=1)
    desk.finish()
    assert desk.last_output(1).cached_prompt_tokens == 21
    assert desk.num_kept == 1
    desk.submit(2, [*([11] * 10), 12], max_tokens=1)
    desk.finish()
    assert desk.last_output(2).cached_prompt_tokens == 10
    assert desk.num_kept == 2


def test_a_beginning_too_short_is_not_shared() -> None:
    limits = dataclasses.replace(ANYWHERE, least_shared_tokens=12)
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), limits, frozenset())
    for number, num_same in enumerate((17, 11, 12)):
        desk.submit(number, [*([11] * num_same), 12 + number], max_tokens=1)
        desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in range(3)] == [0, 0, 12]


def test_a_prefix_that_runs_is_shared() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, num_blocks=15), frozenset())
    for number in range(2):
        desk.submit(number, [11] * 17, max_tokens=5)
        for _ in range(3):
            desk.turn()
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert desk.tokens(0) == desk.tokens(1)


def test_kept_prefixes_give_way_oldest_first() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, num_blocks=5), frozenset())
    for number, token_id in enumerate((11, 12, 13, 12, 11)):
        desk.submit(number, [token_id] * 17, max_tokens=3)
        desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in range(5)] == [0, 0, 0, 16, 0]


def test_what_many_share_counts_once() -> None:
    """A beginning of 4 blocks and an end of one each: 3 callers take 7 blocks and not 15."""
    limits = dataclasses.replace(ANYWHERE, num_blocks=9)
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), limits, frozenset())
    desk.submit(0, [11] * 33, max_tokens=7)
    while not desk.reports.get(0):
        desk.turn()
    for number in (1, 2):
        desk.submit(number, [*([11] * 32), 12 + number], max_tokens=7)
        desk.turn()
    assert desk.loop.scheduler.holdings.blocks.num_used == 7
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in range(3)] == [0, 32, 32]
    assert desk.num_preemptions == 0


def test_a_prefix_shared_by_others_gives_way_for_nothing() -> None:
    """It frees no block, so the next one gives way as well."""
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
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, prefix_reuse=False), frozenset())
    for number in range(2):
        desk.submit(number, [11] * 17, max_tokens=3)
        desk.finish()
    assert desk.last_output(1).cached_prompt_tokens == 0
    assert not desk.num_kept
