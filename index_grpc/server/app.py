"""One server: it listens, loads, warms up, serves, drains and stops when told to."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from index_grpc_client.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server

from index_grpc.chat import Chat
from index_grpc.contract import ServedModel, Timing
from index_grpc.engine.door import Engine, EngineEvents
from index_grpc.errors import StartupError
from index_grpc.machine import patient_threads
from index_grpc.server.answering import Answering, Backend
from index_grpc.server.calls import Calls
from index_grpc.server.entrance import HEALTH_SERVICE, Entrance
from index_grpc.server.health import Health
from index_grpc.server.interceptor import CallInterceptor
from index_grpc.server.listen import options
from index_grpc.server.load_report import LoadReporter, LoadReportService
from index_grpc.server.loaded import Load, Loaded, in_daemon_thread, warm_up
from index_grpc.server.observe import observers_of
from index_grpc.server.observer import Observer, Observers
from index_grpc.server.parsing import ParseInterceptor
from index_grpc.server.ports import ExtraPort
from index_grpc.server.readiness import Readiness
from index_grpc.server.reflection import add_reflection
from index_grpc.server.servicer import SERVICE, ChatServicer
from index_grpc.server.watchdog import Watchdog, watch
from index_grpc.settings import ServeSettings

FLUSH_SECONDS = 2.0
"""How long callers may take to read complete answers before the port closes."""
LONGEST_STEP_SECONDS = 10.0
"""The longest that the server's stop waits for the engine's step."""
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
        self.entrance = Entrance(settings)
        self.health = Health(SERVICE)
        self.readiness = Readiness(self.health)
        self.answering = Answering(self.readiness)
        self.load_reporter = LoadReporter(lambda: self.engine)
        self.observers = Observers([self.load_reporter, *observers, *observers_of(settings)])
        self.load_reports = LoadReportService(self.load_reporter)
        self.engine: Engine | None = None
        self.broke = asyncio.Event()
        """Set when the engine is lost."""
        self._load_seconds, self._has_stopped = 0.0, False
        self._watching: asyncio.Task[None] | None = None
        self.calls = Calls(self.entrance.gate, self.observers.call_ended, keeps_texts=settings.log_prompts)
        self._server = self._grpc_server()
        self.ports = [make(self) for make in ports]

    def _grpc_server(self) -> grpc.aio.Server:
        calls = CallInterceptor(
            SERVICE, self.calls, lambda: self.answering.ready().model.context_length, self.load_reporter.trailer
        )
        interceptors = [ParseInterceptor(), calls, self.entrance.guard]
        with patient_threads():
            server = grpc.aio.server(interceptors=interceptors, options=options(self.settings))
        add_ChatServiceServicer_to_server(ChatServicer(self.answering), server)
        add_HealthServicer_to_server(self.health, server)
        described = [SERVICE, HEALTH_SERVICE]
        if self.settings.load_report_service:
            described.append(self.load_reports.add_to(server))
        add_reflection(server, *described)
        return server

    @property
    def model(self) -> ServedModel | None:
        """The served model once it has been loaded, even if its engine was lost later."""
        return self.answering.backend.model if self.answering.backend is not None else None

    @property
    def _is_in_service(self) -> bool:
        """Whether the engine answers callers, which it does only after it has answered a trial prompt."""
        backend = self.answering.backend
        return backend is not None and backend.chat.engine is self.engine

    async def listen(self) -> str:
        """Opens the ports and returns gRPC's address with its actual port. Only `liveness` is SERVING then."""
        self.observers.starting(self)
        with patient_threads():
            address = await self.entrance.open(self._server)
        for other in self.ports:
            await other.open()
        return address

    async def load(self, load: Load) -> ServedModel:
        """Loads the model in a thread, has its engine answer a trial prompt, then sets health to SERVING."""
        started = time.monotonic()
        loaded = await in_daemon_thread(load)
        self.broke.clear()
        self.engine = await self._start_engine(loaded)
        chat = Chat(loaded.tokenizer, self.engine, self.settings.stream_interval)
        try:
            await warm_up(chat)
            if self.engine.lost:
                raise StartupError("the engine ended right after its first answer")
        except StartupError:
            await self.engine.stop(LONGEST_STEP_SECONDS)
            raise
        self._load_seconds = time.monotonic() - started
        self.answering.backend = Backend(chat, loaded.model)
        self.readiness.become_ready()
        return loaded.model

    async def _start_engine(self, loaded: Loaded) -> Engine:
        observers = self.observers
        events = EngineEvents(self._on_lost, observers.stepped, self._on_first_token, observers.answer_left)
        engine = Engine(loaded.worker, loaded.limits, events)
        await engine.start()
        self._stop_watching()
        watchdog = Watchdog(engine, self.settings.step_timeout_seconds)
        self._watching = asyncio.create_task(watch(watchdog, self._on_stall, self._on_silence))
        return engine

    async def drain(self, delay_seconds: float) -> None:
        """Sets health to NOT_SERVING, takes calls for a while longer, completes those that are open, and stops."""
        log.info("draining: NOT_SERVING, taking calls for another %g s", delay_seconds)
        self.readiness.leave()
        self.load_reports.end()
        await asyncio.sleep(delay_seconds)
        self.readiness.close()
        if self.engine is not None:
            await self._complete(self.engine)
        await self.stop()

    async def stop(self, at_once: bool = False) -> None:
        """Ends the open calls, each with a status, closes the ports and stops the engine.

        The engine may first complete its step, unless `at_once` is true or the engine is lost.
        """
        self.health.end_watches()
        self.entrance.close()
        self.load_reports.end()
        self._stop_watching()
        closing = [self._server.stop(FLUSH_SECONDS), *(port.close() for port in self.ports)]
        if self.engine is not None:
            hopeless = at_once or self.engine.lost
            closing.append(self.engine.stop(0.0 if hopeless else LONGEST_STEP_SECONDS))
        await asyncio.gather(*closing)
        if not (at_once or self._has_stopped):
            self._has_stopped = True
            self.observers.stopped()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

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
            if not engine.num_open:
                return

    def expect_in(self, seconds: float) -> None:
        """Tells callers when to come back: loading begins in `seconds` and takes about as long as the last time."""
        self.readiness.lose(back_at=time.monotonic() + seconds + self._load_seconds)

    def _on_lost(self) -> None:
        self._stop_watching()
        self.observers.engine_lost()
        if self.model is not None:
            self.readiness.lose()
        self.broke.set()

    def _on_stall(self, stalled: bool) -> None:
        if self._is_in_service:
            self.readiness.stall(stalled)

    def _on_first_token(self, timing: Timing) -> None:
        if self._is_in_service:  # otherwise it is the trial prompt's token
            self.observers.answer_began(timing)

    def _on_silence(self) -> None:
        assert self.engine is not None
        log.error(
            "no engine step has ended for %g s (--step-timeout-seconds); the engine counts as lost",
            self.settings.step_timeout_seconds,
        )
        self.engine.give_up()


async def _tell_progress(calls: Calls) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        log.info("%d calls are left", calls.num_open)
