"""One server: it listens, loads, warms up, serves, drains and stops when told to."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from index_grpc_client.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server

from index_grpc.chat import Chat
from index_grpc.contract import ChatRequest, SamplingParams, ServedModel, Timing
from index_grpc.engine.door import Engine, EngineEvents
from index_grpc.engine.scheduler import Limits
from index_grpc.engine.worker import Worker
from index_grpc.errors import IndexGrpcError, StartupError
from index_grpc.server.calls import CallInterceptor, Calls
from index_grpc.server.entrance import HEALTH_SERVICE, Entrance
from index_grpc.server.health import Health
from index_grpc.server.listen import options
from index_grpc.server.load_report import LoadReporter, LoadReportService
from index_grpc.server.observe import observers_of
from index_grpc.server.observer import Observer, Observers
from index_grpc.server.parsing import ParseInterceptor
from index_grpc.server.readiness import Readiness
from index_grpc.server.reflection import add_reflection
from index_grpc.server.servicer import SERVICE, Backend, ChatServicer
from index_grpc.server.watchdog import Watchdog, watch
from index_grpc.settings import ServeSettings
from index_grpc.text.tokenizer import Tokenizer

LOADING_THREAD = "load"

FLUSH_SECONDS = 2.0
"""How long calls whose answers are complete may take to be read before the port closes on them."""
LONGEST_STEP_SECONDS = 10.0
"""How long the engine's step may hold up the end of the server."""
PROGRESS_SECONDS = 5.0
"""How often a drain tells how many calls are left."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that loading a model brings."""

    model: ServedModel
    tokenizer: Tokenizer
    limits: Limits
    worker: Worker


Load = Callable[[], Loaded]


class Port(Protocol):
    """A way in beside gRPC's."""

    address: str
    """Host and port in effect, once it is open."""

    async def open(self) -> None:
        """Raises StartupError if that is not possible."""

    async def close(self) -> None:
        """Takes nothing new; what is open soon ends, since the engine does. May be called twice, or without `open`."""


MakePort = Callable[["App"], Port]


class App:
    """One server with one engine. Used from one event loop."""

    def __init__(
        self, settings: ServeSettings, observers: Sequence[Observer] = (), ports: Sequence[MakePort] = ()
    ) -> None:
        self.settings = settings
        self.entrance = Entrance(settings)
        self.health = Health(SERVICE)
        self.readiness = Readiness(self.health)
        self.servicer = ChatServicer(self.readiness)
        self.observers = Observers([*observers, *observers_of(settings)])
        self.load_reporter = LoadReporter(lambda: self.engine)
        self.load_reports = LoadReportService(self.load_reporter)
        self.engine: Engine | None = None
        self.broke = asyncio.Event()
        """Set when the engine is lost."""
        self._load_seconds, self._has_stopped = 0.0, False
        self._watching: asyncio.Task[None] | None = None
        self.calls = Calls(self.entrance.gate, self.observers.call_ended)
        interceptor = CallInterceptor(SERVICE, self.calls, self.load_reporter.trailer)
        interceptors = [ParseInterceptor(), interceptor, self.entrance.guard]
        self._server = grpc.aio.server(interceptors=interceptors, options=options(settings))
        add_ChatServiceServicer_to_server(self.servicer, self._server)
        add_HealthServicer_to_server(self.health, self._server)
        described = [SERVICE, HEALTH_SERVICE]
        if settings.load_report_service:
            described.append(self.load_reports.add_to(self._server))
        add_reflection(self._server, *described)
        self.ports = [make(self) for make in ports]

    @property
    def is_loaded(self) -> bool:
        """Whether a model has been loaded, be its engine lost again or not."""
        return self.servicer.backend is not None

    @property
    def _is_in_service(self) -> bool:
        """Whether the engine answers callers: not before it has answered a trial prompt."""
        backend = self.servicer.backend
        return backend is not None and backend.chat.engine is self.engine

    async def listen(self) -> str:
        """Opens the ports, with `liveness` SERVING and nothing else, and returns gRPC's address, its port in effect."""
        self.observers.starting(self)
        address = await self.entrance.open(self._server)
        for other in self.ports:
            await other.open()
        return address

    async def load(self, load: Load) -> ServedModel:
        """Loads the model in a thread, has it answer once through the engine's door, then turns health to SERVING."""
        started = time.monotonic()
        loaded = await _in_daemon_thread(load)
        self.broke.clear()
        self.engine = await self._start_engine(loaded)
        chat = Chat(loaded.tokenizer, self.engine)
        try:
            await _warm_up(chat)
            if self.engine.lost:
                raise StartupError("the engine ended right after its first answer")
        except StartupError:
            await self.engine.stop(LONGEST_STEP_SECONDS)
            raise
        self._load_seconds = time.monotonic() - started
        self.servicer.backend = Backend(chat, loaded.model)
        self.readiness.become_ready()
        return loaded.model

    async def _start_engine(self, loaded: Loaded) -> Engine:
        observers = self.observers
        events = EngineEvents(self._on_lost, observers.stepped, self._on_first_token, observers.caller_left)
        engine = Engine(loaded.worker, loaded.limits, events)
        await engine.start()
        self._stop_watching()
        watchdog = Watchdog(engine, self.settings.step_timeout_seconds)
        self._watching = asyncio.create_task(watch(watchdog, self._on_stall, self._on_silence))
        return engine

    async def drain(self, delay_seconds: float) -> None:
        """Tells everyone to go elsewhere, keeps taking calls for a while, then completes those it has taken."""
        log.info("draining: NOT_SERVING, taking calls for another %g s", delay_seconds)
        self.readiness.leave()
        self.load_reports.end()
        await asyncio.sleep(delay_seconds)
        self.readiness.close()
        if self.engine is not None:
            await self._complete(self.engine)
        await self.stop()

    async def stop(self, at_once: bool = False) -> None:
        """Ends the calls that are open, each with its status, closes the ports and ends the engine.

        The engine may first end its step, unless all is to be over at once.
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
        """Lets what was taken come to its end, within the grace."""
        grace = self.settings.grace_seconds
        if engine.num_open:
            log.info("completing %d calls, for at most %g s; a second signal cuts them off", engine.num_open, grace)
        telling = asyncio.create_task(_tell_progress(engine))
        try:
            await asyncio.wait_for(engine.until_idle(), grace)
        except TimeoutError:
            log.info("cutting off %d calls", engine.num_open)
        finally:
            telling.cancel()

    def expect_in(self, seconds: float) -> None:
        """Tells callers that loading begins again in so many seconds: when to come back."""
        self.readiness.lose(back_at=time.monotonic() + seconds + self._load_seconds)

    def _on_lost(self) -> None:
        self.observers.engine_lost()
        if self.is_loaded:
            self.readiness.lose()
        self.broke.set()

    def _on_stall(self, stalled: bool) -> None:
        if self._is_in_service:
            self.readiness.stall(stalled)

    def _on_first_token(self, timing: Timing) -> None:
        if self._is_in_service:  # else it is the trial prompt's
            self.observers.answer_began(timing)

    def _on_silence(self) -> None:
        assert self.engine is not None
        log.error("the engine has not ended a step for %g s and counts as lost", self.settings.step_timeout_seconds)
        self.engine.give_up()


async def _tell_progress(engine: Engine) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        log.info("%d calls are left", engine.num_open)


async def _in_daemon_thread(load: Load) -> Loaded:
    """Like `asyncio.to_thread`, but does not hold up the process's end: a download may take an hour."""
    events = asyncio.get_running_loop()
    result: asyncio.Future[Loaded] = events.create_future()

    def settle(set_result: Callable[[Any], None], value: object) -> None:
        if not result.cancelled():
            set_result(value)

    def work() -> None:
        try:
            loaded = load()
        except Exception as error:
            events.call_soon_threadsafe(settle, result.set_exception, error)
        else:
            events.call_soon_threadsafe(settle, result.set_result, loaded)

    threading.Thread(target=work, name=LOADING_THREAD, daemon=True).start()
    return await result


async def _warm_up(chat: Chat) -> None:
    """Raises StartupError if the model cannot answer."""
    arrival = time.monotonic()
    request = ChatRequest("warm-up", "Hello", sampling=SamplingParams(seed=1), max_tokens=4, arrival=arrival)
    try:
        async for _ in chat.stream(request):
            pass
    except IndexGrpcError as error:
        raise StartupError(f"the model cannot answer a trial prompt ({error}); is the checkpoint damaged?") from error
