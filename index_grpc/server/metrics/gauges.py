"""The metrics of the present state, which are read when Prometheus asks."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from index_grpc import __version__
from index_grpc.datatypes import ServedModel
from index_grpc.engine.engine import Engine
from index_grpc.server.observer import Watched
from index_grpc.server.readiness import STATES


class Gauges(Collector):
    """Reads a server from another thread. It reads only single numbers, each of which is right by itself."""

    def __init__(self, server: Watched) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        server = self._server
        yield InfoMetricFamily("index_grpc_build", "The server's version.", {"version": __version__})
        state = server.readiness.state
        yield _gauge("ready", "Whether health says SERVING.", state == "ready")
        states = GaugeMetricFamily("index_grpc_state", "1 for the server's state, 0 for the others.", labels=["state"])
        for name in STATES:
            states.add_metric([name], name == state)
        yield states
        if server.model is not None:
            yield _model(server.model)
        if server.engine is not None:
            yield from _engine(server.engine)


def _model(model: ServedModel) -> Metric:
    names = {"name": model.name, "device": model.device, "dtype": model.dtype, "quantization": model.quantization}
    return InfoMetricFamily("index_grpc_model", "The served model.", names)


def _engine(engine: Engine) -> Iterator[Metric]:
    occupancy, limits = engine.occupancy, engine.limits
    yield _gauge("running_requests", "Requests that are computed.", engine.num_running)
    yield _gauge("waiting_requests", "Requests that wait for their turn.", engine.num_waiting)
    yield _gauge(
        "waiting_prompt_tokens", "Prompt tokens of requests without a token yet.", engine.num_waiting_prompt_tokens
    )
    yield _gauge("max_running_requests", "How many are computed at most.", limits.max_sequences)
    yield _gauge("max_waiting_requests", "How many may wait.", limits.max_waiting)
    yield _gauge("max_waiting_prompt_tokens", "How many prompt tokens may wait.", limits.max_waiting_tokens)
    used, capacity = occupancy.num_used_tokens, limits.max_cache_tokens
    yield _gauge("kv_cache_used_positions", "Positions of the blocks in which requests that run stand.", used)
    yield _gauge(
        "kv_cache_kept_positions", "Positions kept for prompts that begin the same.", occupancy.num_kept_tokens
    )
    yield _gauge("kv_cache_capacity_positions", "Positions that there are.", capacity)
    yield _gauge("kv_cache_used_ratio", "Share of the positions that is used.", used / capacity)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"index_grpc_{name}", text, value)
