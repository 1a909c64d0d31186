"""Metrics of the callers that API keys name. A name is the operator's own, and there are as many as the file has."""

from prometheus_client import CollectorRegistry, Counter

from index_grpc.server.call import Call


class CallerMetrics:
    """Counts the calls and the tokens of each caller. A call without a valid key counts for nobody."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name, text = "index_grpc_caller_calls", "Calls of each API key's name, by the code with which they ended."
        self._calls = Counter(name, text, ("caller", "code"), registry=registry)
        name, text = "index_grpc_caller_tokens", "Tokens of each API key's name, of answers finished or broken off."
        self._tokens = Counter(name, text, ("caller", "kind"), registry=registry)

    def count(self, call: Call) -> None:
        """Counts a call that has ended."""
        if not call.caller:
            return
        self._calls.labels(call.caller, call.code).inc()
        if (usage := call.usage) is not None and usage.timing is not None:
            self._tokens.labels(call.caller, "prompt").inc(usage.prompt_tokens)
            self._tokens.labels(call.caller, "completion").inc(usage.completion_tokens)
