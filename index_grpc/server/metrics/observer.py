"""The metrics of one server, in a registry of their own."""

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from index_grpc.datatypes import Timing
from index_grpc.engine.orders import StepReport
from index_grpc.server.call import Call
from index_grpc.server.metrics.callers import CallerMetrics
from index_grpc.server.metrics.calls import CallMetrics
from index_grpc.server.metrics.engine import EngineMetrics
from index_grpc.server.metrics.gauges import Gauges
from index_grpc.server.metrics.port import MetricsPort
from index_grpc.server.observer import Observer, Watched

disable_created_metrics()  # type: ignore[no-untyped-call] # they would add a series to each


class Metrics(Observer):
    """Counts events, reads the present state when Prometheus asks, and answers it on a port of its own."""

    def __init__(self, host: str, port: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.port = MetricsPort(self.registry, host, port)
        self._calls, self._engine = CallMetrics(self.registry), EngineMetrics(self.registry)
        self._callers = CallerMetrics(self.registry)

    def starting(self, server: Watched) -> None:
        """See Observer."""
        self.registry.register(Gauges(server))
        self._server = server
        self.port.open()

    def stopped(self) -> None:
        """See Observer."""
        self.port.close()

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        self._calls.count(call, self._model_name)
        self._callers.count(call)

    def answer_began(self, timing: Timing) -> None:
        """See Observer."""
        self._engine.queue.observe(timing.queue)
        self._calls.count_first_token(timing.time_to_first_token, self._model_name)

    def stepped(self, step: StepReport) -> None:
        """See Observer."""
        self._engine.count(step)

    def answer_cut_short(self, num_tokens_saved: int) -> None:
        """See Observer."""
        self._engine.cut_short.inc()
        self._engine.saved_tokens.inc(num_tokens_saved)

    def engine_lost(self) -> None:
        """See Observer."""
        self._engine.losses.inc()

    @property
    def _model_name(self) -> str:
        """The served model's own name, never a caller's text; empty before it is loaded."""
        model = self._server.model
        return model.name if model is not None else ""
