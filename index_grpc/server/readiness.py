"""Whether the service takes calls: what health says of it, and what a call is refused with."""

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
"""How soon callers are told to come back, at the least, while the engine is started again."""

STATES = ("loading", "ready", "stalled", "lost", "draining")

log = logging.getLogger(__name__)


class Readiness:
    """Health's word and the refusal that goes with it.

    loading ─▶ ready ⇄ stalled          ready or stalled ─▶ lost ─▶ ready          any ─▶ leaving ─▶ closed

    `state` is one of STATES: the drawn ones, the last two as `draining`.
    """

    def __init__(self, health: Health) -> None:
        self._health, self.state = health, "loading"
        self._is_leaving = self._is_closed = False
        self._refusal: Callable[[], IndexGrpcError] | None = _loading

    def require(self) -> None:
        """Raises what a call is to be refused with, if it is."""
        if self._refusal is not None:
            raise self._refusal()

    def become_ready(self) -> None:
        """The model has answered."""
        self._say("ready", None)

    def stall(self, stalled: bool) -> None:
        """The engine takes conspicuously long for a step, or goes on."""
        if stalled:
            log.warning("the engine takes conspicuously long for a step")
            self._say("stalled", lambda: EngineStalled("the engine takes very long for a step; call another server"))
        else:
            log.info("the engine goes on")
            self._say("ready", None)

    def lose(self, back_at: float = 0.0) -> None:
        """The engine is gone, and will be back at about that instant if it is known."""

        def refusal() -> IndexGrpcError:
            if not back_at:
                return EngineLost("the engine broke; call another server")
            left = max(SHORTEST_RETURN_SECONDS, back_at - time.monotonic())
            return EngineLost(f"the engine is being started again; {ELSEWHERE_OR_LATER}", left)

        self._say("lost", refusal)

    def leave(self) -> None:
        """The server is about to stop: health says so from now on, whatever else happens; calls are still taken."""
        self._health.set_ready(False)
        self._health.end_watches()
        was_lost = self.state == "lost"
        self._is_leaving, self.state = True, "draining"
        if was_lost:  # nobody brings the engine back any more
            self.close()

    def close(self) -> None:
        """No call is taken any more."""
        self._is_closed = True
        self._refusal = lambda: Draining("the server is stopping; call another server")

    def _say(self, state: str, refusal: Callable[[], IndexGrpcError] | None) -> None:
        if not self._is_closed:
            self._refusal = refusal
        if not self._is_leaving:
            self._health.set_ready(refusal is None)
            self.state = state


def _loading() -> Loading:
    return Loading(f"the model is being loaded; {ELSEWHERE_OR_LATER}", 2.0)
