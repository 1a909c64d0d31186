"""Traces: their parents, their contents for each kind of call, and that they arrive."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as Export
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from index_grpc.errors import StartupError
from index_grpc.server.call_log import CallLog
from index_grpc.server.observe import observers_of
from index_grpc.server.tracing import Tracing
from tests.conftest import settings
from tests.http.asking import COMPLETIONS, client
from tests.process import no_traceback, serving
from tests.server.asking import refusal, seeded, until
from tests.server.fake_runner import FAILS, MODEL, FakeServer, fake_server

CHAT = "index.v1.ChatService/Chat"
PHASES = ["queue", "prefill", "decode"]
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = (f"00-{TRACE_ID}-{PARENT_ID}-{flags}" for flags in ("01", "00"))
REQUEST = pb.ChatRequest(
    prompt="secret prompt",
    stop=["secret stop"],
    max_tokens=5,
    sampling=pb.SamplingParams(temperature=0, top_p=0.5, top_k=3, seed=7),
)


@dataclass
class Traced:
    """A server and the spans of its calls."""

    server: FakeServer
    exporter: InMemorySpanExporter

    async def spans(self, number: int) -> list[ReadableSpan]:
        """Waits for this many spans, which come a little after a call's end."""
        await until(lambda: len(self.exporter.get_finished_spans()) >= number)
        return list(self.exporter.get_finished_spans())

    async def span(self) -> ReadableSpan:
        """The only span."""
        (span,) = await self.spans(1)
        return span


@asynccontextmanager
async def traced(**changes: Any) -> AsyncIterator[Traced]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with fake_server(observers=[Tracing(provider)], **changes) as server:
        yield Traced(server, exporter)


def from_caller(traceparent: str) -> Any:
    return (("traceparent", traceparent), ("tracestate", "vendor=value"), ("x-request-id", "one"))


async def test_spans_belong_to_the_callers_trace() -> None:
    async with traced() as it:
        await it.server.stub.Chat(REQUEST, metadata=from_caller(SAMPLED))
        *phases, span = await it.spans(4)
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT_ID
    assert span.parent.is_remote
    for each in (span, *phases):
        assert f"{each.context.trace_id:032x}" == TRACE_ID
        assert each.context.trace_state.get("vendor") == "value"


async def test_phases_follow_each_other_within_the_call() -> None:
    async with traced() as it:
        await it.server.stub.Chat(REQUEST)
        *phases, span = await it.spans(4)
    assert (span.name, span.kind, span.parent) == (CHAT, SpanKind.SERVER, None)
    assert [phase.name for phase in phases] == PHASES
    assert {phase.parent and phase.parent.span_id for phase in phases} == {span.context.span_id}
    instants = [instant for phase in phases for instant in (phase.start_time or 0, phase.end_time or 0)]
    assert instants[1:4:2] == instants[2:5:2]  # each span begins when the one before ends
    instants = [span.start_time or 0, *instants, span.end_time or 0]
    assert instants == sorted(instants)
    assert instants[0] == instants[1] > 0


async def test_the_attributes_of_a_calls_span() -> None:
    async with traced() as it:
        await it.server.stub.Chat(REQUEST, metadata=(("x-request-id", "one"),))
        *_, span = await it.spans(4)
    attributes = dict(span.attributes or {})
    assert attributes.pop("gen_ai.usage.input_tokens") > 3  # type: ignore[operator]
    assert attributes.pop("client.port") == attributes.pop("network.peer.port")
    assert attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": CHAT,
        "rpc.response.status_code": "OK",
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "index-grpc",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.top_k": 3,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": "one",
        "gen_ai.response.finish_reasons": ("max_tokens",),
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 5,
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_the_attributes_of_an_http_calls_span() -> None:
    async with traced(http_port=0) as it, client(it.server.app) as http:
        assert (await http.post(COMPLETIONS, json={})).status_code == 400
        span = await it.span()
    assert span.name == f"POST {COMPLETIONS}"
    attributes = {
        name: value for name, value in (span.attributes or {}).items() if name.startswith(("http", "url", "rpc"))
    }
    assert attributes == {
        "http.request.method": "POST",
        "http.route": COMPLETIONS,
        "http.response.status_code": 400,
        "url.scheme": "http",
    }


@pytest.mark.parametrize(
    ("request_id", "request_", "code", "reason", "status"),
    [
        (f"{FAILS}now", REQUEST, "INTERNAL", "REQUEST_FAILED", StatusCode.ERROR),
        ("bad", pb.ChatRequest(), "INVALID_ARGUMENT", "INVALID_REQUEST", StatusCode.UNSET),
        ("other", pb.ChatRequest(prompt="Hi", model="secret"), "NOT_FOUND", "MODEL_NOT_FOUND", StatusCode.UNSET),
    ],
    ids=["failing", "invalid", "another model"],
)
async def test_calls_that_end_in_errors(
    request_id: str, request_: pb.ChatRequest, code: str, reason: str, status: StatusCode
) -> None:
    async with traced() as it:
        await refusal(it.server.stub.Chat(request_, metadata=(("x-request-id", request_id),)))
        span = await it.span()
    attributes = span.attributes or {}
    assert (attributes["rpc.response.status_code"], attributes["error.type"]) == (code, reason)
    assert span.status.status_code is status
    assert "secret" not in span.to_json()


async def test_refused_and_cancelled_calls() -> None:
    async with traced(max_sequences=1, max_waiting=0) as it:
        it.server.runner.gate.clear()
        call = it.server.stub.ChatStream(REQUEST)
        await it.server.until_num_open(1)
        assert (await refusal(it.server.stub.Chat(REQUEST))).reason == "OVERLOADED"
        call.cancel()
        refused, cancelled = await it.spans(2)
        it.server.runner.gate.set()
    assert (refused.status.status_code, (refused.attributes or {})["error.type"]) == (StatusCode.ERROR, "OVERLOADED")
    assert (cancelled.attributes or {})["rpc.response.status_code"] == "CANCELLED"
    assert (cancelled.attributes or {})["gen_ai.request.max_tokens"] == 5
    assert cancelled.status.status_code is StatusCode.UNSET


async def test_a_caller_on_the_same_machine_has_no_address(tmp_path: Path) -> None:
    async with traced(unix_socket=tmp_path / "index.sock") as it:
        await it.server.stub.GetModel(pb.GetModelRequest())
        attributes = (await it.span()).attributes or {}
    assert not {"client.address", "network.peer.address"} & set(attributes)


async def test_the_other_calls_have_a_span_too() -> None:
    async with traced() as it:
        await it.server.stub.GetModel(pb.GetModelRequest())
        assert (await it.span()).name == "index.v1.ChatService/GetModel"


async def test_the_log_names_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with traced() as it:
        await it.server.stub.Chat(REQUEST, metadata=from_caller(NOT_SAMPLED))
        await until(lambda: f"trace_id={TRACE_ID}" in caplog.text)
        assert not it.exporter.get_finished_spans()  # the caller decided not to sample


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT_ID}-01", SAMPLED[:-3]])
async def test_an_invalid_traceparent_is_ignored(traceparent: str) -> None:
    async with traced() as it:
        await it.server.stub.Chat(REQUEST, metadata=(("traceparent", traceparent),))
        *_, span = await it.spans(4)
    assert span.parent is None


@pytest.mark.parametrize(
    "tracestate", ["forged", ",".join(f"forged{number}=x" for number in range(33))], ids=["no pair", "too many"]
)
async def test_a_callers_tracestate_is_never_logged(tracestate: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    headers = (("traceparent", SAMPLED), ("tracestate", tracestate))
    async with traced() as it:
        await refusal(it.server.stub.Chat(pb.ChatRequest(), metadata=headers))
        span = await it.span()
    assert not span.context.trace_state
    assert "forged" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@dataclass
class Collector:
    """A collector that receives OTLP exports."""

    received: list[Export] = field(default_factory=list)

    def export(self, request: Export, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        self.received.append(request)
        return ExportTraceServiceResponse()


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export, Export.FromString, ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


def test_all_spans_have_reached_the_collector_when_the_server_stops(checkpoint: Path) -> None:
    never = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    arguments = ["--model", str(checkpoint), "--port", "0", "--drain-delay-seconds", "0", "--traces"]
    with (
        collecting() as (collector, endpoint),
        serving(*arguments, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="ours", **never) as process,
    ):
        with grpc.insecure_channel(process.address()) as channel:
            stub: Any = ChatServiceStub(channel)
            stub.Chat(seeded("Hi", seed=1, max_tokens=5), metadata=from_caller(SAMPLED))
        process.send(signal.SIGTERM)
        assert process.exit_code() == 0
        assert no_traceback(process.lines)
    (resource,) = [spans for export in collector.received for spans in export.resource_spans]
    told = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert told["service.name"] == "ours"
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == [*PHASES, CHAT]
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    assert spans[-1].parent_span_id.hex() == PARENT_ID


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "index_grpc.server.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(StartupError, match=r"--traces needs OpenTelemetry.*; pip install 'index-grpc\[otel\]'"):
        observers_of(settings("any", traces=True))


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")]
)
def test_unsupported_variables_of_opentelemetry_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=f"OTEL_.*{value}"):
        observers_of(settings("any", traces=True))


def test_without_traces_opentelemetry_is_not_imported() -> None:
    assert [type(observer) for observer in observers_of(settings("any"))] == [CallLog]
    code = "import sys, index_grpc.server.lifetime; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
