"""The engine's supervisor: it loads the model, starts the engine, and starts another when it is lost."""

import asyncio
import logging
import time
from dataclasses import dataclass

from index_grpc.chat import Chat
from index_grpc.datatypes import ServedModel, Timing
from index_grpc.engine.engine import Engine, EngineEvents
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


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often, and how soon, an engine is started again."""

    first_pause_seconds: float = 1.0
    """Doubles with each failure in a row."""
    longest_pause_seconds: float = 30.0
    most_failures: int = 5
    """After this many failures in a row the server gives up."""
    steady_seconds: float = 60.0
    """An engine that ran this long resets the number of failures."""

    def pause_seconds(self, num_failures: int) -> float:
        """Returns how long to wait after this many failures in a row."""
        return min(self.first_pause_seconds * 2.0 ** (num_failures - 1), self.longest_pause_seconds)


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
            if self.engine.has_ended:
                raise StartupError("the engine ended right after its first answer")
        except StartupError:
            await self.engine.stop(LONGEST_STEP_SECONDS)
            raise
        self._load_seconds = time.monotonic() - started
        self._answering.backend = Backend(chat, loaded.model)
        self.readiness.become_ready()
        return loaded.model

    async def keep_loaded(self, load: Load, policy: RestartPolicy) -> None:
        """Loads the model again whenever the engine is lost.

        Raises StartupError if that is impossible or keeps failing.
        """
        num_failures = 0
        while True:
            since = time.monotonic()
            await self.lost.wait()
            if self.engine is None or not self.engine.is_replaceable:
                raise StartupError("the engine broke; see the log above")
            if time.monotonic() - since >= policy.steady_seconds:
                num_failures = 0
            num_failures = await self._load_again(load, policy, num_failures + 1)

    async def _load_again(self, load: Load, policy: RestartPolicy, num_failures: int) -> int:
        """Tries until the engine answers. Returns the number of failures in a row; raises StartupError if too many."""
        while num_failures < policy.most_failures:
            pause = policy.pause_seconds(num_failures)
            log.warning("the engine is lost; starting it again in %g s", pause)
            self._expect_in(pause)
            await asyncio.sleep(pause)
            try:
                await self.load(load)
            except StartupError as error:
                log.error("the engine did not start: %s", error)
                num_failures += 1
            else:
                log.info("the engine has been restarted")
                return num_failures
        raise StartupError(f"the engine was lost {num_failures} times in a row; see the log above")

    async def stop(self, at_once: bool) -> None:
        """Stops the engine. It may first complete its step, unless `at_once` is true or the engine is lost."""
        self._stop_watching()
        if self.engine is not None:
            hopeless = at_once or self.engine.has_ended
            await self.engine.stop(0.0 if hopeless else LONGEST_STEP_SECONDS)

    def _expect_in(self, seconds: float) -> None:
        """Tells callers when to come back: loading begins in `seconds` and takes about as long as the last time."""
        self.readiness.lose(back_at=time.monotonic() + seconds + self._load_seconds)

    async def _start_engine(self, loaded: Loaded) -> Engine:
        observers = self._observers
        events = EngineEvents(
            lost=self._on_lost,
            stepped=observers.stepped,
            began=self._on_first_token,
            cut_short=observers.answer_cut_short,
        )
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
