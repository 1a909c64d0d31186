"""What the log, metrics and traces say of calls that ended before their answer did."""

from typing import Any

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from index_grpc.logs import Event
from index_grpc.server.tracing import Tracing
from tests.server.asking import refusal, until
from tests.server.fake_runner import fake_server
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
        """Waits for the only line, which comes a little after the call's end, and returns its fields."""
        await until(lambda: bool(self._found()))
        (fields,) = self._found()
        return fields

    def _found(self) -> list[Fields]:
        messages = [record.msg for record in self._caplog.records if record.name == "index_grpc.calls"]
        return [dict(message.fields) for message in messages if isinstance(message, Event)]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> CallLines:
    return CallLines(caplog)


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_a_call_whose_deadline_passes_during_a_step_is_no_caller_that_left(method: str, log: CallLines) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with fake_server(metrics_port=0, observers=[Tracing(provider)]) as server:
        server.runner.gate.clear()
        found = await refusal(getattr(server.stub, method)(ENDLESS, timeout=1.0))
        assert (found.code, found.details) == (grpc.StatusCode.DEADLINE_EXCEEDED, {})  # its own gRPC says so
        line, metrics = await log.line(), await scraped(server.app)
    assert line["code"] == "DEADLINE_EXCEEDED"
    assert metrics.value(CALLS, rpc_response_status_code="DEADLINE_EXCEEDED", error_type="DEADLINE_EXCEEDED") == 1
    (span,) = exporter.get_finished_spans()
    attributes = span.attributes or {}
    assert attributes["rpc.response.status_code"] == attributes["error.type"] == "DEADLINE_EXCEEDED"
    assert span.status.status_code is StatusCode.ERROR


async def test_a_deadline_that_passes_amid_an_answer(log: CallLines) -> None:
    async with fake_server(metrics_port=0) as server:
        server.runner.step_seconds = 0.01
        messages = aiter(server.stub.ChatStream(ENDLESS, timeout=2.0))
        await anext(messages)
        server.runner.gate.clear()
        found = await refusal(messages)
        assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED
        line, metrics = await log.line(), await scraped(server.app)
    assert line["code"] == "DEADLINE_EXCEEDED"
    assert "reason" not in line  # no error of the service describes it
    assert metrics.value(CHATS, error_type="DEADLINE_EXCEEDED") == 1


async def test_a_caller_that_leaves_before_its_deadline_is_one_that_left(log: CallLines) -> None:
    async with fake_server() as server:
        server.runner.gate.clear()
        call = server.stub.ChatStream(ENDLESS, timeout=60.0)
        await server.until_num_open(1)
        call.cancel()
        assert (await log.line())["code"] == "CANCELLED"
