"""How many tokens the reader of a stream gets at once."""

import asyncio

from index_grpc.datatypes import FinishReason, SamplingParams, Timing, Token, TokenOutput, TokenRequest
from index_grpc.engine.orders import Report
from index_grpc.engine.token_stream import MOST_AT_ONCE, TokenStream


async def portions(interval: int, num_tokens: int) -> list[list[int]]:
    """The ids of each output, for a reader that is always ready, when tokens come one at a time."""
    stream = TokenStream(TokenRequest("x", [1], SamplingParams(), num_tokens), interval, cancel=lambda: None)
    taken = []

    async def read() -> None:
        async for output in stream:
            taken.append([token.id for token in output.tokens])

    reader = asyncio.create_task(read())
    for number in range(num_tokens):
        await asyncio.sleep(0)  # the reader's turn
        await asyncio.sleep(0)
        reason = FinishReason.MAX_TOKENS if number == num_tokens - 1 else None
        output = TokenOutput((Token(number),), Timing(0, 0, 0), reason)
        stream.receive(Report(0, output, ended=reason is not None))
    await reader
    return taken


async def test_each_token_at_once() -> None:
    assert await portions(interval=1, num_tokens=4) == [[0], [1], [2], [3]]


async def test_after_the_first_token_tokens_come_in_intervals() -> None:
    assert await portions(interval=3, num_tokens=9) == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]


async def test_an_answer_shorter_than_the_interval() -> None:
    assert await portions(interval=64, num_tokens=1) == [[0]]
    assert await portions(interval=64, num_tokens=3) == [[0], [1, 2]]


async def test_a_reader_that_fell_behind_gets_limited_portions() -> None:
    """The last output has the finish reason, even if the report with it has no token."""
    num_tokens = 2 * MOST_AT_ONCE + 5
    stream = TokenStream(TokenRequest("x", [1], SamplingParams(), num_tokens), 1, cancel=lambda: None)
    for number in range(num_tokens):
        stream.receive(Report(0, TokenOutput((Token(number),), Timing(0, 0, number)), ended=False))
    stream.receive(Report(0, TokenOutput((), Timing(0, 0, 9), FinishReason.TIME_LIMIT, 3), ended=True))
    outputs = [output async for output in stream]
    assert [len(output.tokens) for output in outputs] == [MOST_AT_ONCE, MOST_AT_ONCE, 5]
    assert [token.id for output in outputs for token in output.tokens] == list(range(num_tokens))
    assert [output.reason for output in outputs] == [None, None, FinishReason.TIME_LIMIT]
    assert (outputs[-1].timing.total, outputs[-1].cached_prompt_tokens) == (9, 3)


def test_closing_a_stream_cancels_its_request_once() -> None:
    done = list[str]()
    with TokenStream(TokenRequest("x", [1], SamplingParams(), 5), 1, cancel=lambda: done.append("cancelled")) as stream:
        stream.close()
    assert done == ["cancelled"]


def test_closing_a_stream_that_has_ended_cancels_nothing() -> None:
    done = list[str]()
    stream = TokenStream(TokenRequest("x", [1], SamplingParams(), 5), 1, cancel=lambda: done.append("cancelled"))
    stream.receive(Report(0, TokenOutput((Token(7),), Timing(0, 0, 0), FinishReason.STOP), ended=True))
    stream.close()
    assert done == []
