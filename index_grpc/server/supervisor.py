"""The engine's supervisor: it loads the model, starts the engine, and reacts when the engine stalls or is lost."""

import asyncio
import logging
import time

from index_grpc.chat import Chat
from index_grpc.contract import ServedModel, Timing
from index_grpc.engine.door import Engine, EngineEvents
from index_grpc.errors import StartupError
from index_grpc.server.answering import Answering, Backend
from index_grpc.server.loaded import Load, Loaded, in_daemon_thread, warm_up
from index_grpc.server.observer import Observers
from index_grpc.server.readiness import Readiness
from index_grpc.server.watchdog import Watchdog, watch
from index_grpc.settings import ServeSettings

LONGEST_STEP_SECONDS = 10.0
"""How long the engine's current step may delay the end of the server."""

log = logging.getLogger(__name__)


class EngineSupervisor:
    """Owns the engine, one after the other, and keeps readiness and observers informed of its state."""

    def __init__(
        self, settings: ServeSettings, readiness: Readiness, answering: Answering, observers: Observers
    ) -> None:
        self._settings, self.readiness, self._answering, self._observers = settings, readiness, answering, observers
        self.engine: Engine | None = None
        self.lost = asyncio.Event()
        """Set when the engine is lost, until the next one starts."""
        self._load_seconds = 0.0
        self._watching: asyncio.Task[None] | None = None

    @property
    def model(self) -> ServedModel | None:
        """The served model once it has been loaded, even if its engine was lost later."""
        return self._answering.backend.model if self._answering.backend is not None else None

    @property
    def _is_in_service(self) -> bool:
        """Whether the engine answers callers, which it does only after it has answered a trial prompt."""
        backend = self._answering.backend
        return backend is not None and backend.chat.engine is self.engine

    async def load(self, load: Load) -> ServedModel:
        """Loads the model in a thread, has its engine answer a trial prompt, then sets health to SERVING.

        Raises StartupError if that fails.
        """
        started = time.monotonic()
        loaded = await in_daemon_thread(load)
        self.lost.clear()
        self.engine = await self._start_engine(loaded)
        chat = Chat(loaded.tokenizer, self.engine, self._settings.stream_interval)
        try:
            await warm_up(chat)
            if self.engine.lost:
                raise StartupError("the engine ended right after its first answer")
        except StartupError:
            await self.engine.stop(LONGEST_STEP_SECONDS)
            raise
        self._load_seconds = time.monotonic() - started
        self._answering.backend = Backend(chat, loaded.model)
        self.readiness.become_ready()
        return loaded.model

    async def stop(self, at_once: bool) -> None:
        """Stops the engine. It may first complete its step, unless `at_once` is true or the engine is lost."""
        self._stop_watching()
        if self.engine is not None:
            hopeless = at_once or self.engine.lost
            await self.engine.stop(0.0 if hopeless else LONGEST_STEP_SECONDS)

    def expect_in(self, seconds: float) -> None:
        """Tells callers when to come back: loading begins in `seconds` and takes about as long as the last time."""
        self.readiness.lose(back_at=time.monotonic() + seconds + self._load_seconds)

    async def _start_engine(self, loaded: Loaded) -> Engine:
        observers = self._observers
        events = EngineEvents(self._on_lost, observers.stepped, self._on_first_token, observers.answer_left)
        engine = Engine(loaded.worker, loaded.limits, events)
        await engine.start()
        self._stop_watching()
        watchdog = Watchdog(engine, self._settings.step_timeout_seconds)
        self._watching = asyncio.create_task(watch(watchdog, self._on_stall, self._on_silence))
        return engine

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _on_lost(self) -> None:
        self._stop_watching()
        self._observers.engine_lost()
        if self.model is not None:
            self.readiness.lose()
        self.lost.set()

    def _on_stall(self, stalled: bool) -> None:
        if self._is_in_service:
            self.readiness.stall(stalled)

    def _on_first_token(self, timing: Timing) -> None:
        if self._is_in_service:  # otherwise it is the trial prompt's token
            self._observers.answer_began(timing)

    def _on_silence(self) -> None:
        assert self.engine is not None
        log.error(
            "no engine step has ended for %g s (--step-timeout-seconds); the engine counts as lost",
            self._settings.step_timeout_seconds,
        )
        self.engine.give_up()
