"""Whether the service takes calls: the status that health reports, and the error that refuses a call."""

import logging
import time
from collections.abc import Callable

from index_grpc.errors import (
    ELSEWHERE_OR_LATER,
    Draining,
    EngineLost,
    EngineStalled,
    IndexGrpcError,
    Loading,
)
from index_grpc.server.health import Health

SHORTEST_RETURN_SECONDS = 0.5
"""The shortest time after which callers are told to come back while the engine is started again."""

SHORTEST_LOAD_SECONDS, LONGEST_LOAD_SECONDS = 1.0, 30.0
"""The limits of the time after which callers are told to come back while the model is loaded."""

STATES = ("loading", "ready", "stalled", "lost", "draining")

log = logging.getLogger(__name__)


class Readiness:
    """The service's state. Sets the status that health reports, and the error that refuses calls.

    loading ─▶ ready ⇄ stalled          ready or stalled ─▶ lost ─▶ ready          any ─▶ draining ─▶ closed

    `state` is one of STATES: those of the diagram, but still `draining` once it is closed.
    """

    def __init__(self, health: Health, started: float | None = None) -> None:
        """`started` is the instant at which loading began; now, if it is None."""
        self._health, self.state = health, "loading"
        self._started = time.monotonic() if started is None else started
        self._is_draining = self._is_closed = False
        self._refusal: Callable[[], IndexGrpcError] | None = self._loading

    def require(self) -> None:
        """Raises the error that refuses a call, unless calls are taken."""
        if self._refusal is not None:
            raise self._refusal()

    def become_ready(self) -> None:
        """Begins to take calls: the model has answered a trial prompt."""
        self._say("ready", None)

    def stall(self, stalled: bool) -> None:
        """Refuses calls while the engine takes unusually long for a step, and takes them when it goes on."""
        if stalled:
            log.warning("an engine step takes unusually long; health is NOT_SERVING until it ends")
            self._say("stalled", lambda: EngineStalled("the engine takes very long for a step; call another server"))
        else:
            log.info("the engine step has ended; health is SERVING again")
            self._say("ready", None)

    def lose(self, back_at: float = 0.0) -> None:
        """Refuses calls: the engine is lost. It will be back at about the instant `back_at`, if that is not 0."""

        def refusal() -> IndexGrpcError:
            if not back_at:
                return EngineLost("the engine broke; call another server")
            left = max(SHORTEST_RETURN_SECONDS, back_at - time.monotonic())
            return EngineLost(f"the engine is being started again; {ELSEWHERE_OR_LATER}", left)

        self._say("lost", refusal)

    def begin_drain(self) -> bool:
        """Begins the drain: health says NOT_SERVING from now on, whatever else happens.

        Watches stay open, since gRPC's own balancers begin an ended one again at once, over and over.
        Returns whether calls are still taken: they are if they were.
        """
        self._health.set_ready(False)
        was_lost = self.state == "lost"
        self._is_draining, self.state = True, "draining"
        if was_lost:  # the engine will not be started again
            self.close()
        return self._refusal is None

    def close(self) -> None:
        """Refuses all calls from now on."""
        self._is_closed = True
        self._refusal = lambda: Draining("the server is stopping; call another server")

    def _say(self, state: str, refusal: Callable[[], IndexGrpcError] | None) -> None:
        if not self._is_closed:
            self._refusal = refusal
        if not self._is_draining:
            self._health.set_ready(refusal is None)
            self.state = state

    def _loading(self) -> Loading:
        # Nobody knows how long it will take; when it has taken long, it may take as long again.
        delay = min(max(SHORTEST_LOAD_SECONDS, time.monotonic() - self._started), LONGEST_LOAD_SECONDS)
        return Loading(f"the model is being loaded; {ELSEWHERE_OR_LATER}", delay)
