"""Tells load balancers how loaded the server is: in a trailer of each call and, if wanted, as a stream of reports."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from index_grpc.engine.door import Engine
from index_grpc.server.orca import OPEN_RCA_SERVICE, OrcaLoadReport, OrcaLoadReportRequest
from index_grpc.server.status import Context, Trailer

TRAILER = "endpoint-load-metrics-bin"

SERVER_FAULTS = frozenset({"UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"})
"""Codes that count as errors of the server: another one might have answered."""

RATE_SECONDS = 10.0
"""Over about so long a time rates are taken."""
SHORTEST_INTERVAL_SECONDS, LONGEST_INTERVAL_SECONDS = 1.0, 3600.0
"""Between two reports of a stream, whatever is asked for."""


class Rate:
    """Events a second, those of long ago counting less and less."""

    def __init__(self) -> None:
        self._rate, self._at = 0.0, time.monotonic()

    def count(self) -> None:
        """Notes an event."""
        self._rate, self._at = self.per_second() + 1 / RATE_SECONDS, time.monotonic()

    def per_second(self) -> float:
        """The rate now."""
        return self._rate * math.exp((self._at - time.monotonic()) / RATE_SECONDS)


class LoadReporter:
    """Knows how loaded the server is."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine, self._calls, self._faults = engine, Rate(), Rate()

    def trailer(self, code: str) -> Trailer:
        """Counts a call that ends with this code and makes its trailer."""
        self._calls.count()
        if code in SERVER_FAULTS:
            self._faults.count()
        # The call itself was part of the load; and balancers take a load of zero for one that is not known.
        return TRAILER, self.report(num_ending=1).SerializeToString()

    def report(self, num_ending: int = 0) -> Any:  # noqa: ANN401 - an OrcaLoadReport
        """The load now, with so many calls that are about to end."""
        return OrcaLoadReport(
            application_utilization=self._utilization(num_ending),
            rps_fractional=self._calls.per_second(),
            eps=self._faults.per_second(),
            utilization=self._named(),
        )

    def _utilization(self, num_ending: int) -> float:
        engine = self._engine()
        if engine is None or engine.lost:
            return 1.0  # no places at all
        return (engine.num_open + num_ending) / engine.limits.max_sequences

    def _named(self) -> dict[str, float]:
        engine = self._engine()
        if engine is None or engine.lost:
            return {}
        limits, promised = engine.limits, engine.held.num_cache_tokens
        queue = min(1.0, engine.num_waiting / max(1, limits.max_waiting))
        return {"kv_cache": promised / limits.max_cache_tokens, "queue": queue}


class LoadReportService:
    """xds.service.orca.v3.OpenRcaService. Its streams end with `end`."""

    def __init__(self, reporter: LoadReporter) -> None:
        self._reporter, self._ended = reporter, asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> str:
        """Registers the service and returns its name."""
        handler = grpc.unary_stream_rpc_method_handler(
            self.stream, OrcaLoadReportRequest.FromString, OrcaLoadReport.SerializeToString
        )
        handlers = grpc.method_handlers_generic_handler(OPEN_RCA_SERVICE, {"StreamCoreMetrics": handler})
        server.add_generic_rpc_handlers((handlers,))
        return OPEN_RCA_SERVICE

    def end(self) -> None:
        """Lets each stream end, so that none of them holds up the server's stop."""
        self._ended.set()

    async def stream(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        """A report now and one after each interval."""
        asked = request.report_interval.seconds + request.report_interval.nanos / 1e9
        interval = min(max(asked, SHORTEST_INTERVAL_SECONDS), LONGEST_INTERVAL_SECONDS)
        while not self._ended.is_set():
            yield self._reporter.report()
            try:
                await asyncio.wait_for(self._ended.wait(), interval)
            except TimeoutError:
                continue
