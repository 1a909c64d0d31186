"""Reports the server's load to load balancers: in a trailer of each call and, if wanted, as a stream of reports."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc

from index_grpc.engine.engine import Engine
from index_grpc.server.call import Call
from index_grpc.server.observer import Observer
from index_grpc.server.orca import OPEN_RCA_SERVICE, OrcaLoadReport, OrcaLoadReportRequest
from index_grpc.server.readiness import Readiness
from index_grpc.server.status import Context, Trailer

TRAILER = "endpoint-load-metrics-bin"

RATE_SECONDS = 10.0
"""Rates are averages over about this time."""
SHORTEST_INTERVAL_SECONDS, LONGEST_INTERVAL_SECONDS = 1.0, 3600.0
"""The limits of the time between two reports of a stream, whatever the caller asks for."""


UTILIZATION_WITHOUT_SERVICE = 1000.0
"""The utilization of a server that takes no calls or soon will not: more than that of a server with a long queue."""
FAULTS = frozenset({"UNAVAILABLE", "INTERNAL"})
"""Codes that count as the server's errors. Calls that expire in the queue do not: the utilization shows the queue."""


class Rate:
    """Events per second, with less weight for older ones. Instants are seconds of `time.monotonic()`."""

    def __init__(self) -> None:
        self._rate, self._at = 0.0, 0.0

    def count(self, now: float) -> None:
        """Counts an event."""
        self._rate, self._at = self.per_second(now) + 1 / RATE_SECONDS, now

    def per_second(self, now: float) -> float:
        """Returns the present rate."""
        return self._rate * math.exp((self._at - now) / RATE_SECONDS)


class LoadReporter(Observer):
    """Makes reports of the server's load, and counts calls, whichever port they came through."""

    def __init__(self, readiness: Readiness, engine: Callable[[], Engine | None]) -> None:
        self._readiness, self._engine, self._calls, self._faults = readiness, engine, Rate(), Rate()

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        now = time.monotonic()
        self._calls.count(now)
        if call.code in FAULTS:
            self._faults.count(now)

    def trailer(self) -> Trailer:
        """Returns the trailer of a call that is about to end and has been counted already."""
        # The call itself was part of the load. Besides, balancers take a load of zero for an unknown load.
        return TRAILER, self.report(time.monotonic(), num_ending=1).SerializeToString()

    def report(self, now: float, num_ending: int = 0) -> Any:  # noqa: ANN401 - an OrcaLoadReport
        """Returns the load, in which `num_ending` calls that are about to end still count."""
        report = OrcaLoadReport(rps_fractional=self._calls.per_second(now), eps=self._faults.per_second(now))
        engine = self._engine()
        if engine is None or self._readiness.state != "ready":
            report.application_utilization = UTILIZATION_WITHOUT_SERVICE
            return report
        limits, utilization = engine.limits, report.utilization
        report.application_utilization = (engine.num_wanted + num_ending) / engine.num_places
        utilization["kv_cache"] = engine.occupancy.num_used_tokens / limits.max_cache_tokens
        utilization["queue"] = min(1.0, engine.num_waiting / max(1, limits.max_waiting))
        return report


class LoadReportService:
    """The service xds.service.orca.v3.OpenRcaService. `end` ends its streams."""

    def __init__(self, reporter: LoadReporter) -> None:
        self._reporter, self._woken = reporter, asyncio.Event()
        self._streams_end = False

    def add_to(self, server: grpc.aio.Server) -> str:
        """Registers the service and returns its name."""
        handler = grpc.unary_stream_rpc_method_handler(
            self.stream, OrcaLoadReportRequest.FromString, OrcaLoadReport.SerializeToString
        )
        handlers = grpc.method_handlers_generic_handler(OPEN_RCA_SERVICE, {"StreamCoreMetrics": handler})
        server.add_generic_rpc_handlers((handlers,))
        return OPEN_RCA_SERVICE

    def report_now(self) -> None:
        """Has each stream send a report at once, as when the server begins to drain. The streams stay open."""
        self._woken.set()
        self._woken = asyncio.Event()

    def end(self) -> None:
        """Ends each stream after a last report, so that none of them delays the server's stop.

        It must not be called while the server still takes calls: gRPC begins an ended stream again at once.
        """
        self._streams_end = True
        self.report_now()

    async def stream(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        """Sends a report now and one after each interval."""
        asked = request.report_interval.seconds + request.report_interval.nanos / 1e9
        interval = min(max(asked, SHORTEST_INTERVAL_SECONDS), LONGEST_INTERVAL_SECONDS)
        while True:
            # Read before the report is made: while it is sent, the streams may be woken, and the next one is due then.
            woken, is_last = self._woken, self._streams_end
            yield self._reporter.report(time.monotonic())
            if is_last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), interval)
