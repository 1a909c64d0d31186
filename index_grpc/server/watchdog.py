"""The watchdog of the engine, which detects a step that seems never to end."""

import asyncio
from collections.abc import Callable

from index_grpc.engine.engine import Engine

CHECK_SECONDS = 0.25
SHORTEST_STALL_SECONDS = 1.25
"""No shorter silence counts, however fast the steps have been: a busy machine may pause a process for so long."""
STEPS_TO_STALL = 10
"""A silence this many times as long as the longest recent step counts as a stall."""


class Watchdog:
    """Measures for how long an engine with open requests has sent no update.

    It counts checks and reads no clock, so the time for which the whole server was suspended does not count.
    """

    def __init__(self, engine: Engine, step_timeout_seconds: float) -> None:
        self.silent_seconds = 0.0
        self._engine, self._timeout_seconds = engine, step_timeout_seconds
        self._num_updates = 0

    @property
    def sees_stall(self) -> bool:
        """Whether the engine has been silent for unusually long; it may still go on."""
        conspicuous = max(SHORTEST_STALL_SECONDS, STEPS_TO_STALL * self._engine.longest_step_seconds)
        return self.silent_seconds >= min(conspicuous, self._timeout_seconds)

    @property
    def sees_loss(self) -> bool:
        """Whether the engine has been silent for so long that it counts as lost."""
        return self.silent_seconds >= self._timeout_seconds

    def check(self) -> None:
        """Updates the silent time. To be called every CHECK_SECONDS."""
        engine = self._engine
        if engine.num_open and engine.num_updates == self._num_updates:
            self.silent_seconds += CHECK_SECONDS
        else:
            self.silent_seconds = 0.0
        self._num_updates = engine.num_updates


async def watch(watchdog: Watchdog, on_stall: Callable[[bool], None], on_loss: Callable[[], None]) -> None:
    """Calls `on_stall` with True when the engine stalls and False when it goes on; `on_loss` once it counts as lost."""
    stalled = False
    while not watchdog.sees_loss:
        await asyncio.sleep(CHECK_SECONDS)
        watchdog.check()
        if watchdog.sees_stall != stalled:
            stalled = not stalled
            on_stall(stalled)
    on_loss()
