"""What the log, metrics and traces say of calls that ended before their answer did."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import httpx2
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from index_grpc.chat import AnswerDecoder, AnswerStream, Chat
from index_grpc.datatypes import (
    Chunk,
    Finish,
    FinishReason,
    SamplingParams,
    Timing,
    Token,
    TokenOutput,
    TokenRequest,
    Usage,
)
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.orders import Report
from index_grpc.engine.sequence import Batch
from index_grpc.engine.token_stream import TokenStream
from index_grpc.logs import Event
from index_grpc.server.call import open_call
from index_grpc.server.tracing import Tracing
from tests.http.asking import COMPLETIONS, asking, fake_http
from tests.server.asking import refusal, unary, until
from tests.server.fake_runner import FakeServer, fake_server
from tests.server.scraping import scraped

ENDLESS = pb.ChatRequest(prompt="Hi", max_tokens=4000)
CALLS = "rpc_server_call_duration_seconds_count"
CHATS = "gen_ai_server_request_duration_seconds_count"

Fields = dict[str, Any]


class CallLines:
    """The lines of calls in the log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        self._caplog = caplog

    async def line(self) -> Fields:
        """The fields of the only line."""
        (fields,) = await self.lines(1)
        return fields

    async def lines(self, number: int) -> list[Fields]:
        """Waits for this many lines, which come a little after their calls' ends, and returns their fields."""
        await until(lambda: len(self._found()) >= number)
        return self._found()

    def _found(self) -> list[Fields]:
        messages = [record.msg for record in self._caplog.records if record.name == "index_grpc.calls"]
        return [dict(message.fields) for message in messages if isinstance(message, Event)]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> CallLines:
    return CallLines(caplog)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_a_call_whose_deadline_passes_during_a_step_is_no_caller_that_left(
    method: str, log: CallLines, exporter: InMemorySpanExporter
) -> None:
    async with fake_server(metrics_port=0, observers=[tracing(exporter)]) as server:
        server.runner.gate.clear()
        await server.channel.channel_ready()
        found = await refusal(getattr(server.stub, method)(ENDLESS, timeout=1.0))
        assert (found.code, found.details) == (grpc.StatusCode.DEADLINE_EXCEEDED, {})  # its own gRPC says so
        line, metrics = await log.line(), await scraped(server.app)
    assert (line["code"], line["reason"]) == ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT")
    assert metrics.value("index_grpc_errors_total", reason="DEADLINE_TOO_SHORT") == 1
    assert metrics.value(CHATS, error_type="DEADLINE_TOO_SHORT") == 1
    assert metrics.value(CALLS, rpc_response_status_code="DEADLINE_EXCEEDED", error_type="DEADLINE_EXCEEDED") == 1
    (span,) = exporter.get_finished_spans()
    assert of_span(span) == ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT", StatusCode.ERROR)


def of_span(span: ReadableSpan) -> tuple[object, object, StatusCode]:
    attributes = span.attributes or {}
    return attributes["rpc.response.status_code"], attributes["error.type"], span.status.status_code


async def test_a_deadline_that_passes_amid_an_answer(log: CallLines, exporter: InMemorySpanExporter) -> None:
    async with fake_server(metrics_port=0, observers=[tracing(exporter)]) as server:
        server.runner.step_seconds = 0.01
        await server.channel.channel_ready()
        messages = aiter(server.stub.ChatStream(ENDLESS, timeout=2.0))
        await anext(messages)
        server.runner.gate.clear()
        found = await refusal(messages)
        assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED
        line, metrics = await log.line(), await scraped(server.app)
    assert line["code"] == "DEADLINE_EXCEEDED"
    assert "reason" not in line  # no error of the service describes it
    assert line["completion_tokens"] > 0
    assert metrics.value(CHATS, error_type="DEADLINE_EXCEEDED") == 1
    *_, span = exporter.get_finished_spans()
    assert of_span(span) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", StatusCode.ERROR)


async def test_a_caller_that_leaves_before_its_deadline_is_one_that_left(log: CallLines) -> None:
    async with fake_server() as server:
        server.runner.gate.clear()
        call = server.stub.ChatStream(ENDLESS, timeout=60.0)
        await server.until_num_open(1)
        call.cancel()
        assert (await log.line())["code"] == "CANCELLED"


async def test_a_count_whose_deadline_passes_lacked_no_time_for_a_token(
    log: CallLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    async with fake_server() as server:
        monkeypatch.setattr(Chat, "prompt_ids", forever)
        await server.channel.channel_ready()
        found = await refusal(server.stub.CountTokens(pb.CountTokensRequest(prompt="Hi"), timeout=1.0))
        assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED
        line = await log.line()
    assert line["code"] == "DEADLINE_EXCEEDED"
    assert "reason" not in line


@pytest.mark.parametrize(
    ("seconds", "allowed", "is_out_of_time"),
    [(995.0, 1000.0, True), (980.0, 1000.0, False), (0.0, 0.01, True), (1000.0, None, False)],
)
def test_a_caller_whose_deadline_passes_may_seem_to_leave_a_little_early(
    seconds: float, allowed: float | None, is_out_of_time: bool
) -> None:
    call = open_call("Chat", {}, "", allowed)
    call.arrival -= seconds
    assert call.is_out_of_time == is_out_of_time


NUM_TOKENS = 5
"""How many tokens are generated of an answer before it is broken off."""

Ask = Callable[[FakeServer, httpx2.AsyncClient], Awaitable[object]]


def chat(server: FakeServer, http: httpx2.AsyncClient) -> Awaitable[object]:
    return unary(server.stub, ENDLESS)


def chat_stream(server: FakeServer, http: httpx2.AsyncClient) -> Awaitable[object]:
    return endless_stream(server, ENDLESS)


async def endless_stream(server: FakeServer, request: pb.ChatRequest) -> None:
    """Reads until it is cancelled. gRPC cancels a call with its reader's task only if that waits for a message."""
    call = server.stub.ChatStream(request)
    try:
        async for _ in call:
            pass
    finally:
        call.cancel()


def completion(server: FakeServer, http: httpx2.AsyncClient) -> Awaitable[object]:
    return http.post(COMPLETIONS, json=asking() | {"max_tokens": 4000})


def completion_stream(server: FakeServer, http: httpx2.AsyncClient) -> Awaitable[object]:
    return http.post(COMPLETIONS, json=asking(stream=True) | {"max_tokens": 4000})


def tutorial(server: FakeServer, http: httpx2.AsyncClient) -> Awaitable[object]:
    return http.post("/", json={"prompt": "Hi", "max_length": 4000})


async def begun(server: FakeServer, call: Awaitable[object], num_tokens: int) -> asyncio.Future[object]:
    """Makes a call and waits until it has this many tokens. The device holds the next one."""
    launch, numbers = server.runner.launch, itertools.count()

    def limited(batch: Batch) -> Computed:
        if next(numbers) == num_tokens:
            server.runner.gate.clear()
        return launch(batch)

    server.runner.launch = limited  # type: ignore[method-assign]
    asked = asyncio.ensure_future(call)
    await server.until_num_open(1)
    assert server.app.engine is not None
    (stream,) = server.app.engine._streams.values()
    await until(lambda: stream.num_tokens == num_tokens)
    return asked


def leaves(server: FakeServer, asked: asyncio.Future[object]) -> None:
    asked.cancel()


def breaks(server: FakeServer, asked: asyncio.Future[object]) -> None:
    assert server.app.engine is not None
    server.app.engine.give_up()


@pytest.mark.parametrize(("end", "code"), [(leaves, "CANCELLED"), (breaks, "UNAVAILABLE")])
@pytest.mark.parametrize("ask", [chat, chat_stream, completion, completion_stream, tutorial])
async def test_the_cost_of_an_answer_that_was_broken_off(
    ask: Ask, end: Callable[[FakeServer, asyncio.Future[object]], None], code: str, log: CallLines
) -> None:
    async with fake_http(metrics_port=0) as (server, http):
        asked = await begun(server, ask(server, http), NUM_TOKENS)
        end(server, asked)
        await asyncio.gather(asked, return_exceptions=True)
        line, metrics = await log.line(), await scraped(server.app)
    assert line["code"] == code
    assert "finish" not in line
    assert line["completion_tokens"] == NUM_TOKENS
    assert line["prompt_tokens"] > 3
    assert 0 <= line["queue_seconds"] <= line["first_token_seconds"] <= line["total_seconds"]
    tokens = metrics.values("prompt_tokens_total", "completion_tokens_total", "cached_prompt_tokens_total")
    assert tokens == [line["prompt_tokens"], NUM_TOKENS, line["cached_prompt_tokens"]]
    assert metrics.value("index_grpc_finishes_total") == 0


class EndedByStopString:
    """A decoder that finds a stop string in the first token."""

    def add(self, output: TokenOutput) -> Chunk:
        return Chunk(finish=Finish(FinishReason.STOP_SEQUENCE, "a", 3, 1, 2, output.timing))


async def test_tokens_behind_a_stop_string_are_no_part_of_the_cost() -> None:
    tokens, timing = (Token(1), Token(2)), Timing(0.0, 0.0, 0.0)
    outputs = TokenStream(TokenRequest("x", [1, 2, 3], SamplingParams(), 9), 1, cancel=lambda: None)
    outputs.receive(Report(0, TokenOutput(tokens, timing, cached_prompt_tokens=2), ended=False))
    answer = AnswerStream(cast("AnswerDecoder", EndedByStopString()), outputs, lambda chunk: None)
    assert answer.usage == Usage(3, 2, 2, timing)
    await anext(answer)
    assert answer.usage == Usage(3, 1, 2, timing)


async def test_a_call_without_a_token_has_cost_none(log: CallLines) -> None:
    async with fake_server(metrics_port=0) as server:
        asked = await begun(server, unary(server.stub, ENDLESS), 0)
        asked.cancel()
        line, metrics = await log.line(), await scraped(server.app)
    assert line["prompt_tokens"] > 3
    assert line["completion_tokens"] == 0
    assert not {"cached_prompt_tokens", "queue_seconds", "first_token_seconds"} & set(line)
    assert metrics.values("prompt_tokens_total", "completion_tokens_total") == [0, 0]


async def test_a_span_of_an_answer_that_was_broken_off_has_its_cost(exporter: InMemorySpanExporter) -> None:
    async with fake_server(observers=[tracing(exporter)]) as server:
        asked = await begun(server, endless_stream(server, ENDLESS), NUM_TOKENS)
        asked.cancel()
        await until(lambda: len(exporter.get_finished_spans()) == 4)
    *phases, span = exporter.get_finished_spans()
    assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
    attributes = span.attributes or {}
    assert attributes["gen_ai.usage.output_tokens"] == NUM_TOKENS
    assert "gen_ai.response.finish_reasons" not in attributes


async def test_an_answer_that_was_broken_off_tells_what_it_reused(log: CallLines) -> None:
    request = pb.ChatRequest(prompt="你好" * 100, max_tokens=4000)
    async with fake_server() as server:
        await unary(server.stub, pb.ChatRequest(prompt=request.prompt, max_tokens=2))
        again = await server.stub.Chat(pb.ChatRequest(prompt=request.prompt, max_tokens=2))
        await server.until_num_open(0)
        (await begun(server, endless_stream(server, request), NUM_TOKENS)).cancel()
        line = (await log.lines(3))[-1]
    assert line["cached_prompt_tokens"] == again.finish.usage.cached_prompt_tokens > 0
