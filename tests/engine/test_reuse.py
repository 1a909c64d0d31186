"""Rows that are kept and reused: what a request finds computed, and what gives way."""

import dataclasses

from tests.engine.desk import ANYWHERE, LIMITS, Desk
from tests.engine.fake_runner import VOCAB, FakeRunner


def test_a_conversation_continues_in_its_row() -> None:
    """The next turn computes only what is new; a whole chunk is 8 tokens."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), stop_ids=frozenset())
    first = [11] * 17
    desk.submit(0, first, max_tokens=3)
    desk.finish()
    desk.submit(1, [*first, *desk.tokens(0), 12], max_tokens=1)
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert len(desk.loop.runner.held_rows()) == 1


def test_an_answer_is_reused_where_cuts_change_nothing() -> None:
    """All that was computed is there: the prompt and the answer but for its last token."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    desk.submit(0, [11] * 17, max_tokens=3)
    desk.finish()
    desk.submit(1, [*([11] * 17), *desk.tokens(0), 12], max_tokens=1)
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 19]
    assert len(desk.loop.runner.held_rows()) == 1


def test_an_answer_told_otherwise_gives_way_but_a_prompt_does_not() -> None:
    """The history may hold another end of the answer than was computed; the row goes on from where they part."""
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), ANYWHERE, stop_ids=frozenset())
    desk.submit(0, [11] * 17, max_tokens=8)
    desk.finish()
    other_end = [*([11] * 17), *desk.tokens(0)[:4], VOCAB + 1, 12]
    desk.submit(1, other_end, max_tokens=1)
    desk.finish()
    assert desk.last_output(1).cached_prompt_tokens == 21
    assert len(desk.loop.runner.held_rows()) == 1
    desk.submit(2, [*([11] * 10), 12], max_tokens=1)
    desk.finish()
    assert desk.last_output(2).cached_prompt_tokens == 10
    assert len(desk.loop.runner.held_rows()) == 2


def test_a_beginning_too_short_is_not_shared() -> None:
    limits = dataclasses.replace(ANYWHERE, least_shared_tokens=12)
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), limits, frozenset())
    for number, num_same in enumerate((17, 11, 12)):
        desk.submit(number, [*([11] * num_same), 12 + number], max_tokens=1)
        desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in range(3)] == [0, 0, 12]


def test_a_busy_row_is_copied() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, max_cache_tokens=120), frozenset())
    for number in range(2):
        desk.submit(number, [11] * 17, max_tokens=5)
        for _ in range(3):
            desk.turn()
    desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in (0, 1)] == [0, 16]
    assert desk.tokens(0) == desk.tokens(1)


def test_kept_rows_give_way_oldest_first() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, max_cache_tokens=40), frozenset())
    for number, token_id in enumerate((11, 12, 13, 12, 11)):
        desk.submit(number, [token_id] * 17, max_tokens=3)
        desk.finish()
    assert [desk.last_output(number).cached_prompt_tokens for number in range(5)] == [0, 0, 0, 16, 0]


def test_a_kept_row_that_cannot_shrink_counts_as_what_it_was_promised() -> None:
    """Few positions are used of forty: where a row has its length from the beginning, two do not fit."""
    for block_tokens, cached in ((None, 0), (8, 16)):
        limits = dataclasses.replace(LIMITS, max_cache_tokens=79, block_tokens=block_tokens)
        desk = Desk(FakeRunner(LIMITS.chunk_tokens), limits, frozenset({0}))
        for number, token_id in enumerate((11, 12, 11)):
            desk.submit(number, [token_id] * 17, max_tokens=23)
            while not desk.reports.get(number):
                desk.turn()
            desk.cancel(number)
        output = desk.reports[2][0].output
        assert output is not None
        assert output.cached_prompt_tokens == cached


def test_without_reuse_nothing_is_kept() -> None:
    desk = Desk(FakeRunner(LIMITS.chunk_tokens), dataclasses.replace(LIMITS, prefix_reuse=False), frozenset())
    for number in range(2):
        desk.submit(number, [11] * 17, max_tokens=3)
        desk.finish()
    assert desk.last_output(1).cached_prompt_tokens == 0
    assert not desk.loop.runner.held_rows()
