"""Conversations over both clients."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from index_grpc_client import (
    AsyncClient,
    AsyncConversation,
    Client,
    Conversation,
    InvalidRequestError,
    Message,
    PromptTooLongError,
    Role,
    UnavailableError,
    assistant,
    memory,
    system,
    user,
)
from index_grpc_client.request import QUICK_TIMEOUT
from index_grpc_client.v1 import chat_pb2

from .either import EitherClient, drained, settled
from .fake_server import TEXT, Script, bad_request, overloaded


def conversation(client: EitherClient, **options: object) -> Conversation | AsyncConversation:
    kind = Conversation if isinstance(client, Client) else AsyncConversation
    return kind(client, **options)  # type: ignore[arg-type]


def num_counts(script: Script) -> int:
    return sum(isinstance(request, chat_pb2.CountTokensRequest) for request in script.requests)


async def test_turns_are_remembered(either: EitherClient, script: Script) -> None:
    chat = conversation(either, system="Be brief.")
    result = await settled(chat.ask("one", seed=1))
    assert chat.last == result
    assert (await drained(chat.stream("two")))[0].delta == "Hello"
    turns = (user("one"), assistant(TEXT), user("two"), assistant(TEXT))
    assert chat.history == (system("Be brief."), *turns)
    assert chat.last is not None
    assert chat.last.history == chat.history
    assert [turn.content for turn in script.requests[1].history] == ["Be brief.", "one", TEXT]
    assert script.requests[0].sampling.seed == 1


async def test_a_failed_turn_is_not_in_the_history(either: EitherClient, script: Script) -> None:
    chat = conversation(either)
    script.fail_after = (2, overloaded())
    with pytest.raises(UnavailableError):
        await drained(chat.stream("one"))
    assert chat.history == ()
    assert chat.last is None


async def test_leaving_the_stream_after_the_finish_keeps_the_turn(either: EitherClient) -> None:
    chat = conversation(either)
    if isinstance(chat, Conversation):
        for chunk in chat.stream("one"):
            if chunk.finish:
                break
    else:
        async for chunk in chat.stream("one"):
            if chunk.finish:
                break
    assert chat.history == (user("one"), assistant(TEXT))


async def test_undo_and_clear(either: EitherClient) -> None:
    chat = conversation(either, system="s", history=[("user", "a"), ("assistant", "b")])
    await settled(chat.ask("c"))
    assert chat.undo() == "c"
    assert chat.history == (system("s"), user("a"), assistant("b"))
    assert chat.undo() == "a"
    assert chat.undo() is None
    await settled(chat.ask("d"))
    chat.clear()
    assert list(chat.history) == [system("s")]


async def test_the_history_may_be_replaced(either: EitherClient) -> None:
    chat = conversation(either, system="s", history=[user("a"), assistant("b")])
    before = chat.history
    chat.history = [("user", "c"), ("assistant", "d")]
    assert chat.history == (system("s"), user("c"), assistant("d"))
    chat.system = None
    chat.history = before
    assert chat.history == before


async def test_what_was_undone_is_not_the_latest_answer(either: EitherClient) -> None:
    chat = conversation(either)
    await settled(chat.ask("a"))
    chat.undo()
    assert chat.last is None


async def test_a_change_during_a_turn_is_kept(either: EitherClient) -> None:
    chat = conversation(either, history=[user("a"), assistant("b")])
    if isinstance(chat, Conversation):
        for chunk in chat.stream("c"):
            if chunk.start:
                chat.clear()
    else:
        async for chunk in chat.stream("c"):
            if chunk.start:
                chat.clear()
    assert chat.history == (user("c"), assistant(TEXT))


def test_turns_at_once_are_all_kept(client: Client) -> None:
    chat = Conversation(client)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(chat.ask, "abcd"))
    assert sorted(turn.content for turn in chat.history if turn.role is Role.USER) == list("abcd")


async def test_the_named_model_also_counts(either: EitherClient, script: Script) -> None:
    chat = conversation(either, history=[user("a"), assistant("b")], trim=True)
    await settled(chat.ask("c", model="demo"))
    assert [request.model for request in script.requests[1:]] == ["demo", "demo"]


async def test_headers_reach_every_call_of_a_turn(either: EitherClient, script: Script) -> None:
    chat = conversation(either, history=[user("a"), assistant("b")], trim=True)
    await settled(chat.ask("c", metadata=iter([("x-tenant", "t")])))
    assert [headers.get("x-tenant") for headers in script.metadata] == ["t"] * 3


async def test_the_clients_timeout_is_for_the_whole_turn(
    either: EitherClient, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=9)
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    await settled(conversation(either, history=[user("a"), assistant("b")], trim=True).ask("c"))
    assert [round(left, -1) for left in script.times_left] == [QUICK_TIMEOUT, QUICK_TIMEOUT, 30]


async def test_trimming_copes_with_what_is_too_large_to_send(either: EitherClient, script: Script) -> None:
    script.context_length = 10_000_000
    history = [turn for _ in range(3) for turn in (user("x" * 2_500_000), assistant("y"))]
    await settled(conversation(either, history=history, trim=True).ask("p", max_tokens=20))
    assert len(script.requests[-1].history) == 2


async def test_instructions_may_come_with_the_history_and_change(either: EitherClient, script: Script) -> None:
    chat = conversation(either, history=[system("s"), user("a"), assistant("b")])
    assert chat.system == "s"
    chat.system = None
    await settled(chat.ask("c"))
    assert [turn.content for turn in script.requests[0].history] == ["a", "b"]
    with pytest.raises(ValueError, match="leave one of them out"):
        conversation(either, system="s", history=[system("t")])


async def test_beyond_the_context_both_counts_are_named(either: EitherClient) -> None:
    chat = conversation(either, history=[user("x" * 90)])
    with pytest.raises(PromptTooLongError, match="prompt: 110 tokens, but the context holds 100"):
        await settled(chat.ask("y" * 20))
    assert chat.history == (user("x" * 90),)


def long_history(turns: int) -> list[Message]:
    return [message for turn in range(turns) for message in (user(f"{turn:05}"), assistant("b" * 5))]


async def test_trimming_drops_the_oldest_turns_only(either: EitherClient, script: Script) -> None:
    chat = conversation(either, system="ssssssssss", history=long_history(30), trim=True)
    await settled(chat.ask("p" * 10))  # 100 = 10 of instructions + 10 of prompt + 20 for the answer + six turns of 10
    sent = [turn.content for turn in script.requests[-1].history]
    assert sent[:2] == ["ssssssssss", "00024"]
    assert len(sent) == 1 + 2 * 6
    assert chat.history[:2] == (system("ssssssssss"), user("00024"))
    assert num_counts(script) <= 6, "the search is no longer logarithmic"


async def test_trimming_copes_with_what_is_too_long_to_count(either: EitherClient, script: Script) -> None:
    chat = conversation(either, system="ssssssssss", history=long_history(600), trim=True)
    await settled(chat.ask("p" * 10))
    assert [turn.content for turn in script.requests[-1].history][:2] == ["ssssssssss", "00594"]


async def test_trimming_hides_no_other_refusal(either: EitherClient, script: Script) -> None:
    chat = conversation(either, trim=True)
    await settled(chat.ask("one"))
    script.failures.append(bad_request("wrong", prompt="is odd"))
    with pytest.raises(InvalidRequestError, match="is odd"):
        await settled(chat.ask("two"))


async def test_trimming_leaves_what_fits(either: EitherClient, script: Script) -> None:
    chat = conversation(either, history=long_history(6), trim=True)
    await drained(chat.stream("p" * 20))
    assert len(script.requests[-1].history) == 12
    assert num_counts(script) == 1


async def test_trimming_makes_room_for_the_answer_asked_for(either: EitherClient, script: Script) -> None:
    chat = conversation(either, history=long_history(6), trim=True)
    await settled(chat.ask("p" * 20, max_tokens=40))
    assert len(script.requests[-1].history) == 8
    chat = conversation(either, history=long_history(6), trim=True)
    await settled(chat.ask("p" * 20, max_tokens=5000))
    assert len(script.requests[-1].history) == 6, "no more than half the context is kept free"


async def test_what_cannot_fit_is_refused(either: EitherClient, script: Script) -> None:
    chat = conversation(either, history=long_history(3), trim=True)
    with pytest.raises(PromptTooLongError, match="101 tokens"):
        await settled(chat.ask("p" * 101))
    assert len(chat.history) == 6, "a turn that failed must not cost the history"


async def test_the_model_is_asked_about_once(async_client: AsyncClient, script: Script) -> None:
    chat = AsyncConversation(async_client, trim=True)
    await chat.ask("one")
    await chat.ask("two")
    assert sum(isinstance(request, chat_pb2.GetModelRequest) for request in script.requests) == 1


async def test_calls_that_trim_share_the_options_of_the_turn(
    either: EitherClient, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count(step=20)  # each reading of the clock is 20 seconds later
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    chat = conversation(either, trim=True, history=[("user", "a" * 50), ("assistant", "b" * 40)])
    await settled(chat.ask("hi", timeout=100, request_id="turn-1"))
    assert [type(request).__name__ for request in script.requests] == [
        "GetModelRequest",
        "CountTokensRequest",
        "ChatRequest",
    ]
    assert {found["x-request-id"] for found in script.metadata} == {"turn-1"}
    for left, given in zip(script.times_left, [QUICK_TIMEOUT, QUICK_TIMEOUT, 40], strict=True):
        assert given - 5 < left < given + 1  # gRPC rounds up


async def test_an_invalid_timeout_is_refused_before_any_call(either: EitherClient, script: Script) -> None:
    with pytest.raises(ValueError, match="timeout is 0 s; allowed is more than 0 s"):
        await settled(conversation(either, trim=True).ask("hi", timeout=0))
    assert script.requests == []
