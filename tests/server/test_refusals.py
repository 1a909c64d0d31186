"""Calls that cannot be answered now are refused at once, before any header, and told when to retry."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.datatypes import Message
from index_grpc.errors import IndexGrpcError, Overloaded, RateLimited, StartupError
from index_grpc.server import status
from index_grpc.server.app import App
from tests.conftest import settings
from tests.server.asking import Refusal, Stub, read_refusal, refusal, retrying, streamed, unary, until
from tests.server.fake_runner import FakeServer, fake_server, letters

PUSHBACK = "grpc-retry-pushback-ms"
REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=20)
TEXT = letters(20)


async def filled(server: FakeServer, number: int) -> list[asyncio.Task[str]]:
    """Makes `number` calls, which the device holds."""
    server.runner.gate.clear()
    held = [asyncio.create_task(streamed(server.stub, REQUEST)) for _ in range(number)]
    await server.until_num_open(number)
    return held


def check_told_to_retry(found: Refusal, reason: str) -> None:
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
    assert 0.001 <= found.retry_seconds <= 30
    assert "call another server" in found.message


@pytest.mark.parametrize("max_waiting", [0, 1])
async def test_a_full_queue_refuses_until_a_place_is_free(max_waiting: int) -> None:
    async with fake_server(max_sequences=1, max_waiting=max_waiting) as server:
        held = await filled(server, 1 + max_waiting)
        for call in (server.stub.Chat(REQUEST), server.stub.ChatStream(REQUEST)):
            found = await refusal(call)
            check_told_to_retry(found, "OVERLOADED")
            assert found.metadata == {"max_sequences": "1", "max_waiting": str(max_waiting)}
        assert (await server.stub.CountTokens(pb.CountTokensRequest(prompt="Hi"))).prompt_tokens > 0
        server.runner.gate.set()
        assert await asyncio.gather(*held) == [TEXT] * len(held)
        assert await unary(server.stub, REQUEST) == TEXT


async def test_a_full_queue_refuses_before_the_prompt_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_server(max_sequences=1, max_waiting=0) as server:
        held = await filled(server, 1)
        encoded = list[str]()
        monkeypatch.setattr(server.loaded.tokenizer, "encode", encoded.append)
        found = await refusal(server.stub.Chat(pb.ChatRequest(prompt="你好" * 1500)))
        check_told_to_retry(found, "OVERLOADED")
        assert encoded == []
        server.runner.gate.set()
        assert await asyncio.gather(*held) == [TEXT]


async def test_the_queue_is_bounded_by_tokens_too() -> None:
    async with fake_server(max_sequences=1, max_waiting=8, max_waiting_tokens=20) as server:
        server.runner.gate.clear()
        long = pb.ChatRequest(prompt="word " * 12, max_tokens=20)
        held = [asyncio.create_task(streamed(server.stub, long))]  # one request is accepted, however long
        await server.until_num_open(1)
        found = await refusal(server.stub.Chat(REQUEST))
        check_told_to_retry(found, "OVERLOADED")
        assert found.metadata.pop("max_waiting_tokens") == "20"
        waiting, own = (found.metadata[name] for name in ("waiting_tokens", "prompt_tokens"))
        assert f"{waiting} prompt tokens wait already" in found.message
        assert f"this prompt's {own} would make them more than 20" in found.message
        server.runner.gate.set()
        assert await asyncio.gather(*held) == [TEXT]
        assert await unary(server.stub, REQUEST) == TEXT


async def test_waiting_prompts_that_leave_free_their_tokens_in_the_queue() -> None:
    async with fake_server(max_sequences=1, max_waiting=8, max_waiting_tokens=20) as server:
        server.runner.gate.clear()
        call = server.stub.Chat(pb.ChatRequest(prompt="word " * 12, max_tokens=20))
        await server.until_num_open(1)
        call.cancel()
        server.runner.gate.set()
        await server.until_num_open(0)
        assert await unary(server.stub, REQUEST) == TEXT


async def test_as_many_calls_of_a_burst_are_accepted_as_there_are_places() -> None:
    async with fake_server(max_sequences=2, max_waiting=3) as server:
        server.runner.gate.clear()
        calls = [asyncio.create_task(code(server.stub.Chat(REQUEST))) for _ in range(20)]
        await until(lambda: sum(call.done() for call in calls) == 15)
        await server.until_num_open(5)
        server.runner.gate.set()
        assert sorted(await asyncio.gather(*calls)) == ["OK"] * 5 + ["UNAVAILABLE"] * 15


async def test_grpc_cancels_no_call_of_a_large_burst() -> None:
    """With its default, gRPC would cancel the calls beyond its own queue, and no client retries these."""
    async with fake_server() as server:
        calls = [server.stub.GetModel(pb.GetModelRequest()) for _ in range(3000)]
        assert Counter([(await call.code()).name for call in calls]) == {"OK": 3000}


async def code(call: grpc.aio.UnaryUnaryCall[pb.ChatRequest, pb.ChatResponse]) -> str:
    return (await call.code()).name


@pytest.mark.parametrize("ask", [streamed, unary])
async def test_a_stock_client_with_a_retry_policy_gets_through(
    ask: Callable[[Stub, pb.ChatRequest], Coroutine[None, None, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """This would fail if headers were sent before the refusal."""
    caplog.set_level("INFO")
    async with fake_server(max_sequences=1, max_waiting=0) as server:
        (held,) = await filled(server, 1)
        options = [("grpc.service_config", retrying(max_attempts=5)), ("grpc.enable_retries", 1)]
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            patient: Stub = ChatServiceStub(channel)
            asked = asyncio.create_task(ask(patient, REQUEST))
            await until(lambda: "code=UNAVAILABLE" in caplog.text)
            server.runner.gate.set()
            assert await asked == TEXT
        assert await held == TEXT


async def test_a_call_that_is_refused_again_is_told_a_longer_delay() -> None:
    """A client that is told a delay does not increase its own, and a few short pauses are over before a burst is.

    The first refusals tell gRPC no delay, so that it tries another server soon.
    """
    async with fake_server(max_sequences=1, max_waiting=0) as server:
        (held,) = await filled(server, 1)
        first = await refusal(server.stub.Chat(REQUEST))
        assert PUSHBACK not in first.trailers
        options = [("grpc.service_config", retrying(max_attempts=4))]
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            fourth = await refusal(ChatServiceStub(channel).Chat(REQUEST))
        check_told_to_retry(fourth, "OVERLOADED")
        assert fourth.retry_seconds == pytest.approx(27 * first.retry_seconds, abs=0.002)
        assert int(fourth.trailers[PUSHBACK]) / 1000 == fourth.retry_seconds
        server.runner.gate.set()
        assert await held == TEXT


@pytest.mark.parametrize(
    ("error", "seconds_left", "num_before", "pushback"),
    [
        (Overloaded("full", 20.0), None, 1, None),  # another server may answer the second attempt
        (Overloaded("full", 20.0), 25.0, 2, "20000"),
        (Overloaded("full", 20.0), 15.0, 2, None),  # the client's own pause is shorter
        (Overloaded("full", 20.0), 2.0, 2, None),
        (Overloaded("full", 20.0), 0.5, 2, "-1"),  # gRPC would wait and then tell only that the time is over
        (RateLimited("too much", 20.0), None, 0, "20000"),
        (RateLimited("too much", 20.0), 15.0, 0, "-1"),
    ],
)
def test_grpc_is_told_to_wait_only_if_that_may_help(
    error: IndexGrpcError, seconds_left: float | None, num_before: int, pushback: str | None
) -> None:
    assert status._pushback(error, seconds_left, num_before, delay_ms=20_000) == pushback


async def test_while_loading_callers_are_told_to_retry() -> None:
    async with fake_server(loaded=False) as server:
        for call in (server.stub.Chat(REQUEST), server.stub.ChatStream(REQUEST)):
            check_told_to_retry(await refusal(call), "LOADING")
        check_told_to_retry(await refusal(server.stub.GetModel(pb.GetModelRequest())), "LOADING")
        check_told_to_retry(await refusal(server.stub.CountTokens(pb.CountTokensRequest(prompt="Hi"))), "LOADING")
        await server.load()
        assert await unary(server.stub, REQUEST) == TEXT


async def test_a_drain_completes_accepted_calls_and_accepts_no_more() -> None:
    async with fake_server(grace_seconds=30) as server:
        held = await filled(server, 3)
        drained = asyncio.create_task(server.app.drain(0.0))
        await asyncio.sleep(0)  # lets the drain begin
        assert (await refusal(server.stub.ChatStream(REQUEST))).code is grpc.StatusCode.UNAVAILABLE
        assert not drained.done()
        server.runner.gate.set()
        assert await asyncio.gather(*held) == [TEXT] * 3
        await drained


async def test_a_drain_tells_how_many_calls_are_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("index_grpc.server.app.PROGRESS_SECONDS", 0.001)
    async with fake_server(grace_seconds=30) as server:
        held = await filled(server, 3)
        drained = asyncio.create_task(server.app.drain(0.0))
        await until(lambda: "3 calls are left" in caplog.text)
        server.runner.gate.set()
        assert await asyncio.gather(*held) == [TEXT] * 3
        await drained


async def test_calls_that_come_during_a_drain_are_told_to_retry() -> None:
    async with fake_server() as server:
        (held,) = await filled(server, 1)
        drained = asyncio.create_task(server.app.drain(0.0))
        await asyncio.sleep(0)  # lets the drain begin
        for call in (server.stub.Chat(REQUEST), server.stub.ChatStream(REQUEST)):
            check_told_to_retry(await refusal(call), "DRAINING")
        server.runner.gate.set()
        assert await held == TEXT
        await drained


async def test_calls_are_still_taken_in_the_delay_before_the_drain() -> None:
    async with fake_server() as server:
        drained = asyncio.create_task(server.app.drain(60.0))
        await asyncio.sleep(0)  # lets the drain begin
        assert await streamed(server.stub, REQUEST) == TEXT
        drained.cancel()


async def test_a_drain_waits_for_prompts_whose_layout_takes_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request reaches the engine while calls may still be read, the other after the first is answered."""
    caplog.set_level("INFO")
    monkeypatch.setattr("index_grpc.server.app.FLUSH_SECONDS", 1.0)
    async with fake_server(grace_seconds=60) as server:
        assert server.app.answering.backend is not None
        chat, laid_out = server.app.answering.backend.chat, [asyncio.Event(), asyncio.Event()]
        lay_out, waiting = chat.prompt_ids, iter(laid_out)

        async def when_told(messages: Sequence[Message]) -> list[int]:
            await next(waiting).wait()
            return await lay_out(messages)

        monkeypatch.setattr(chat, "prompt_ids", when_told)
        first, second = (asyncio.create_task(streamed(server.stub, REQUEST)) for _ in laid_out)
        await until(lambda: server.app.calls.num_open == 2)
        server.runner.gate.clear()
        drained = asyncio.create_task(server.app.drain(0.0))
        await until(lambda: "completing 2 calls" in caplog.text)
        await asyncio.sleep(0.1)  # the engine is idle now, and calls have FLUSH_SECONDS to be read
        laid_out[0].set()
        await server.until_num_open(1)
        await asyncio.sleep(1.0)  # that time is over now
        server.runner.gate.set()
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        laid_out[1].set()
        assert set(await asyncio.gather(first, second)) == {TEXT}
        await drained


async def test_calls_that_outlast_the_grace_are_cut_off_with_a_status() -> None:
    async with fake_server(grace_seconds=0.05) as server:
        (held,) = await filled(server, 1)
        drained = asyncio.create_task(server.app.drain(0.0))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await held
        check_told_to_retry(read_refusal(caught.value), "DRAINING")
        server.runner.gate.set()
        await drained


async def test_a_drain_without_an_engine_says_that_calls_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with fake_server() as server:
        server.app.readiness.lose()
        drained = asyncio.create_task(server.app.drain(60.0))
        await until(lambda: "draining: NOT_SERVING" in caplog.text)
        assert "refusing calls for another 60 s" in caplog.text
        assert (await refusal(server.stub.Chat(REQUEST))).reason == "DRAINING"
        drained.cancel()


async def test_with_a_lost_engine_callers_are_told_to_retry() -> None:
    async with fake_server() as server:
        assert await server.breaks_after(unary(server.stub, REQUEST)) == TEXT  # an idle engine checks for leaks
        await server.app.supervisor.lost.wait()
        check_told_to_retry(await refusal(server.stub.Chat(REQUEST)), "ENGINE_LOST")


async def test_a_second_server_cannot_listen_on_the_same_port() -> None:
    async with fake_server() as server:
        port = int(server.address.rpartition(":")[2])
        second = App(settings("another", port=port))
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{port}: another program listens there; "):
            await second.listen()


async def test_a_message_over_the_size_limit() -> None:
    async with fake_server(max_message_mib=1) as server:
        found = await refusal(server.stub.Chat(pb.ChatRequest(prompt="x" * 2**20)))
        assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        largest = pb.ChatRequest(prompt="x" * (2**20 - 4))
        assert largest.ByteSize() == (await server.stub.GetModel(pb.GetModelRequest())).max_message_bytes
        assert (await refusal(server.stub.Chat(largest))).reason == "PROMPT_TOO_LONG"
