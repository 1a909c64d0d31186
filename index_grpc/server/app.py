"""One server: it listens, loads, warms up, serves, drains and stops when told to."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from index_grpc_client.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server

from index_grpc.engine.engine import Engine
from index_grpc.machine import batch_threads
from index_grpc.server.access_control import HEALTH_SERVICE, AccessControl
from index_grpc.server.answering import Answering
from index_grpc.server.calls import Calls
from index_grpc.server.extra_port import ExtraPort
from index_grpc.server.health import Health
from index_grpc.server.interceptor import CallInterceptor
from index_grpc.server.listen import options
from index_grpc.server.load_report import LoadReporter, LoadReportService
from index_grpc.server.observe import observers_of
from index_grpc.server.observer import Observer, Observers
from index_grpc.server.parsing import ParseInterceptor
from index_grpc.server.readiness import Readiness
from index_grpc.server.reflection import add_reflection
from index_grpc.server.servicer import SERVICE, ChatServicer
from index_grpc.server.supervisor import EngineSupervisor
from index_grpc.settings import ServeSettings

FLUSH_SECONDS = 2.0
"""How long callers may take to read complete answers before the port closes."""
PROGRESS_SECONDS = 5.0
"""How often a drain logs how many calls are open."""

log = logging.getLogger(__name__)

MakePort = Callable[["App"], ExtraPort]
"""Makes another port for a server, besides gRPC's."""


class App:
    """One server with one engine. Used from one event loop."""

    def __init__(
        self, settings: ServeSettings, observers: Sequence[Observer] = (), ports: Sequence[MakePort] = ()
    ) -> None:
        self.settings = settings
        self.access = AccessControl(settings)
        self.health = Health(SERVICE)
        self.readiness = Readiness(self.health)
        self.answering = Answering(self.readiness)
        self.load_reporter = LoadReporter(self.readiness, lambda: self.engine)
        self.observers = Observers([self.load_reporter, *observers, *observers_of(settings)])
        self.load_reports = LoadReportService(self.load_reporter)
        self.supervisor = EngineSupervisor(settings, self.readiness, self.answering, self.observers)
        self._has_stopped = False
        self.calls = Calls(self.access.gate, self.observers.call_ended, keeps_texts=settings.log_prompts)
        self._server = self._grpc_server()
        self.ports = [make(self) for make in ports]

    @property
    def engine(self) -> Engine | None:
        """The current engine once it has started, even if it was lost later."""
        return self.supervisor.engine

    def _grpc_server(self) -> grpc.aio.Server:
        calls = CallInterceptor(SERVICE, self.calls, self.answering, self.load_reporter.trailer)
        interceptors = [ParseInterceptor(), calls, self.access.key_interceptor]  # each sees the next one's handlers
        with batch_threads():
            server = grpc.aio.server(interceptors=interceptors, options=options(self.settings))
        add_ChatServiceServicer_to_server(ChatServicer(self.answering, self.settings.max_message_bytes), server)
        add_HealthServicer_to_server(self.health, server)
        described = [SERVICE, HEALTH_SERVICE]
        if self.settings.load_report_service:
            described.append(self.load_reports.add_to(server))
        add_reflection(server, *described)
        return server

    async def listen(self) -> str:
        """Opens the ports and returns gRPC's address with its actual port. Only `liveness` is SERVING then."""
        self.observers.starting(self.supervisor)
        with batch_threads():
            address = await self.access.open(self._server)
        for other in self.ports:
            await other.open()
        return address

    async def drain(self, delay_seconds: float) -> None:
        """Sets health to NOT_SERVING, takes calls for a while longer, completes those that are open, and stops."""
        treatment = "taking" if self.readiness.begin_drain() else "refusing"
        meanwhile = f", {treatment} calls for another {delay_seconds:g} s" if delay_seconds else ""
        log.info("draining: NOT_SERVING%s", meanwhile)
        self.load_reports.report_now()
        await asyncio.sleep(delay_seconds)
        self.readiness.close()
        if self.engine is not None:
            await self._complete(self.engine)
        await self.stop()

    async def stop(self, at_once: bool = False) -> None:
        """Ends the open calls, each with a status, closes the ports and stops the engine.

        The engine may first complete its step, unless `at_once` is true or the engine is lost.
        """
        self.calls.cut_off()
        self.health.end_watches()
        self.access.close()
        self.load_reports.end()
        closing = [port.close() for port in self.ports]
        await asyncio.gather(self._server.stop(FLUSH_SECONDS), self.supervisor.stop(at_once), *closing)
        if not (at_once or self._has_stopped):
            self._has_stopped = True
            self.observers.stopped()

    async def _complete(self, engine: Engine) -> None:
        """Waits until the open calls have ended, for at most `grace_seconds`."""
        grace = self.settings.grace_seconds
        if not self.calls.num_open:
            return
        log.info("completing %d calls, for at most %g s; a second signal cuts them off", self.calls.num_open, grace)
        telling = asyncio.create_task(_tell_progress(self.calls))
        try:
            await asyncio.wait_for(self._answered(engine), grace)
        except TimeoutError:
            log.info("cutting off %d calls", self.calls.num_open)
        finally:
            telling.cancel()

    async def _answered(self, engine: Engine) -> None:
        """Waits for all answers, also to prompts that are still being laid out, but not for callers who read slowly."""
        while True:
            await engine.until_idle()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.calls.until_idle(), FLUSH_SECONDS)
            backend = self.answering.backend
            if not (engine.num_open or (backend is not None and backend.chat.num_laid_out)):
                return


async def _tell_progress(calls: Calls) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        log.info("%d calls are left", calls.num_open)
