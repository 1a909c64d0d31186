"""Sends a trace of each call to OpenTelemetry. That library is an extra: `observe.py` imports this only if wanted.

index.v1.ChatService/Chat  ├────────────────────────────┤   the caller's `traceparent` is its parent
    queue                  ├──┤                             until computing began
    prefill                   ├────┤                        until the first token
    decode                         ├──────────────────┤     until the last
"""

import logging
import os
import threading

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from index_grpc import __version__
from index_grpc.datatypes import ChatRequest, Timing, Usage
from index_grpc.errors import StartupError
from index_grpc.server.call import Call, Http
from index_grpc.server.observer import Observer
from index_grpc.server.status import SERVER_FAULTS

Attributes = dict[str, AttributeValue]

LONGEST_FLUSH_SECONDS = 3.0
"""How long a collector that cannot be reached may delay the server's stop."""

READS_HEADERS = "opentelemetry.trace"
"""A logger that warns of malformed headers and quotes them: it would let callers without a key write into the log."""

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Tracing(Observer):
    """Makes a call's spans when it has ended, since all its times are known then. They hold no text of any request."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider, self._tracer = provider, provider.get_tracer("index_grpc", __version__)
        self._propagator = TraceContextTextMapPropagator()
        logging.getLogger(READS_HEADERS).setLevel(logging.ERROR)

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        started = round(call.created * 1e9)
        span = self._tracer.start_span(
            call.full_method if call.http is None else f"{call.http.method} {call.full_method}",
            self._propagator.extract(call.metadata),
            SpanKind.SERVER,
            _attributes(call),
            start_time=started,
        )
        call.trace_id = format_trace_id(span.get_span_context().trace_id)
        if (usage := call.usage) is not None and usage.timing is not None:
            self._add_phases(span, started, usage.timing)
        if call.code in SERVER_FAULTS:
            span.set_status(Status(StatusCode.ERROR))
        span.end(started + round(call.seconds * 1e9))

    def stopped(self) -> None:
        """Sends the spans that are not sent yet."""
        flushing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        flushing.start()
        flushing.join(LONGEST_FLUSH_SECONDS)

    def _add_phases(self, parent: Span, started: int, timing: Timing) -> None:
        context = set_span_in_context(parent)
        begin = started
        phases = {"queue": timing.queue, "prefill": timing.time_to_first_token, "decode": timing.total}
        for name, seconds in phases.items():
            end = started + round(seconds * 1e9)
            self._tracer.start_span(name, context, start_time=begin).end(end)
            begin = end


def tracing_from_environment() -> Tracing:
    """Returns a Tracing that sends spans as the standard OTEL_* variables say. Raises StartupError if one is wrong."""
    for name in PROTOCOLS:
        if os.environ.get(name, "grpc") != "grpc":
            raise StartupError(f"{name} is {os.environ[name]}; traces are sent by grpc only; name such an endpoint")
    ours = Resource.create({"service.name": "index-grpc", "service.version": __version__})
    try:
        provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception as error:  # whatever its type, a variable is its cause
        raise StartupError(f"traces cannot be set up as the OTEL_ variables say: {error!r}") from error
    return Tracing(provider)


def _attributes(call: Call) -> Attributes:
    attributes: Attributes = {
        **(_of_rpc(call) if call.http is None else _of_http(call, call.http)),
        "gen_ai.response.id": call.id,
        **_of_peer(call.peer),
    }
    if call.error is not None:
        attributes["error.type"] = call.error.reason
    elif call.code in SERVER_FAULTS:
        attributes["error.type"] = call.code
    if call.request is not None:
        attributes |= _of_request(call.request, call)
    if (usage := call.usage) is not None:
        attributes |= _of_usage(usage)
    if call.finish is not None:
        attributes["gen_ai.response.finish_reasons"] = [call.finish.reason.value]
    return attributes


def _of_rpc(call: Call) -> Attributes:
    return {
        "rpc.system.name": "grpc",
        "rpc.method": call.full_method,
        "rpc.response.status_code": call.code,
    }


def _of_http(call: Call, http: Http) -> Attributes:
    """Returns a call's attributes; without a status if the caller left before a response."""
    status = http.status(call.error)
    return {
        "http.request.method": http.method,
        "http.route": call.full_method,
        "url.scheme": http.scheme,
        **({} if status is None else {"http.response.status_code": status}),
    }


def _of_peer(peer: str) -> Attributes:
    """Returns the caller's address and port; nothing for a unix socket, which has no address."""
    family, _, address = peer.partition(":")
    if not family.startswith("ip"):
        return {}
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return {
        "client.address": host,
        "client.port": int(port),
        "network.peer.address": host,
        "network.peer.port": int(port),
    }


def _of_request(request: ChatRequest, call: Call) -> Attributes:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "index-grpc",
        "gen_ai.request.model": call.model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.sampling.temperature,
        "gen_ai.request.top_p": request.sampling.top_p,
        "gen_ai.request.top_k": request.sampling.top_k,
        "gen_ai.request.seed": request.sampling.seed,
    }


def _of_usage(usage: Usage) -> Attributes:
    attributes: Attributes = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }
    if usage.timing is not None:
        attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_prompt_tokens
    return attributes
