"""Metrics of calls. Names and labels are OpenTelemetry's where it has some.

No label's value comes from a caller: methods, codes, reasons and the model's name are the server's own.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

from index_grpc.datatypes import Finish, FinishReason, Usage
from index_grpc.server.call import Call
from index_grpc.server.status import CODES, SERVER_FAULTS

HTTP_LABELS = ("http_request_method", "http_route", "http_response_status_code", "url_scheme", "error_type")
RPC_LABELS = ("rpc_system_name", "rpc_method", "rpc_response_status_code", "error_type")
CHAT_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
OPERATION, PROVIDER = "chat", "index-grpc"

# Seconds: OpenTelemetry's, extended for answers that take a processor minutes and for the tokens of a GPU.
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
REQUEST_BUCKETS = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)


class CallMetrics:
    """Counts calls by how they ended, and what their answers cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=buckets)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"index_grpc_{name}", text, labels, registry=registry)

        name, text = "rpc_server_call_duration_seconds", "Duration of calls over gRPC."
        self._calls = histogram(name, text, RPC_LABELS, CALL_BUCKETS)
        name, text = "http_server_request_duration_seconds", "Duration of calls over HTTP."
        self._http_calls = histogram(name, text, HTTP_LABELS, CALL_BUCKETS)
        name, text = "gen_ai_server_request_duration_seconds", "Duration of calls that ask for an answer."
        self._requests = histogram(name, text, (*CHAT_LABELS, "error_type"), REQUEST_BUCKETS)
        name, text = "gen_ai_server_time_to_first_token_seconds", "From a call's arrival to its first token."
        self._first_token = histogram(name, text, CHAT_LABELS, FIRST_TOKEN_BUCKETS)
        name, text = "gen_ai_server_time_per_output_token_seconds", "From token to token after the first, by answer."
        self._per_token = histogram(name, text, CHAT_LABELS, TOKEN_BUCKETS)
        self._errors = counter("errors", "Calls that were refused or broken off.", "reason")
        self._finishes = counter("finishes", "Answers that came to their end.", "reason")
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of answers, finished or broken off.")
        self._cached_tokens = counter("cached_prompt_tokens", "Those of them that had been computed before.")
        self._completion_tokens = counter("completion_tokens", "Tokens of answers, finished or broken off.")
        self._begin_at_zero()

    def count(self, call: Call, model: str) -> None:
        """Counts a call that has ended."""
        self._of_port(call).observe(call.seconds)
        if call.error is not None:
            self._errors.labels(call.error.reason).inc()
        if call.is_chat:
            error = call.error.reason if call.error else call.code if call.code != "OK" else ""
            self._requests.labels(OPERATION, PROVIDER, model, error).observe(call.seconds)
        if call.finish is not None:
            self._count_finish(call.finish, model)
        if (usage := call.usage) is not None and usage.timing is not None:
            self._count_tokens(usage)

    def count_first_token(self, seconds: float, model: str) -> None:
        """Counts an answer's first token, `seconds` after its call's arrival."""
        self._first_token.labels(OPERATION, PROVIDER, model).observe(seconds)

    def _of_port(self, call: Call) -> Histogram:
        """Returns the histogram of the call's protocol, with the call's labels."""
        fault, http = call.code if call.code in SERVER_FAULTS else "", call.http
        if http is None:
            return self._calls.labels("grpc", call.full_method, call.code, fault)
        status = http.status(call.error) or ""
        return self._http_calls.labels(http.method, call.full_method, status, http.scheme, fault)

    def _count_finish(self, finish: Finish, model: str) -> None:
        self._finishes.labels(finish.reason.value).inc()
        if finish.completion_tokens > 1:
            seconds = finish.timing.total - finish.timing.time_to_first_token
            per_token = self._per_token.labels(OPERATION, PROVIDER, model)
            per_token.observe(seconds / (finish.completion_tokens - 1))

    def _count_tokens(self, usage: Usage) -> None:
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._cached_tokens.inc(usage.cached_prompt_tokens)
        self._completion_tokens.inc(usage.completion_tokens)

    def _begin_at_zero(self) -> None:
        """Shows zero for what has not happened yet: a rate needs a value before the first increase."""
        for error in CODES:
            self._errors.labels(error.reason)
        for reason in FinishReason:
            self._finishes.labels(reason.value)
