"""Watches that the engine moves: a step that seems never to end is noticed, though nothing fails."""

import asyncio
from collections.abc import Callable

from index_grpc.engine.door import Engine

CHECK_SECONDS = 0.25
SHORTEST_STALL_SECONDS = 1.25
"""No silence that is shorter counts, however fast the steps have been: a busy machine may pause a process so long."""
STEPS_TO_STALL = 10
"""A silence as long as this many of the longest recent step counts as a stall."""


class Watchdog:
    """Counts the time in which an engine with open requests says nothing.

    It is counted in checks, not read from a clock: when the whole server has been suspended, nobody was silent.
    """

    def __init__(self, engine: Engine, step_timeout_seconds: float) -> None:
        self.silent_seconds = 0.0
        self._engine, self._timeout_seconds = engine, step_timeout_seconds
        self._num_updates = 0

    @property
    def sees_stall(self) -> bool:
        """Whether the engine has been silent for conspicuously long; it may go on all the same."""
        conspicuous = max(SHORTEST_STALL_SECONDS, STEPS_TO_STALL * self._engine.longest_step_seconds)
        return self.silent_seconds >= min(conspicuous, self._timeout_seconds)

    @property
    def sees_loss(self) -> bool:
        """Whether the engine has been silent for so long that it counts as lost."""
        return self.silent_seconds >= self._timeout_seconds

    def check(self) -> None:
        """To be called every CHECK_SECONDS."""
        engine = self._engine
        if engine.num_open and engine.num_updates == self._num_updates:
            self.silent_seconds += CHECK_SECONDS
        else:
            self.silent_seconds = 0.0
        self._num_updates = engine.num_updates


async def watch(watchdog: Watchdog, on_stall: Callable[[bool], None], on_loss: Callable[[], None]) -> None:
    """Tells when the engine stalls and when it goes on, until it counts as lost."""
    stalled = False
    while not watchdog.sees_loss:
        await asyncio.sleep(CHECK_SECONDS)
        watchdog.check()
        if watchdog.sees_stall != stalled:
            stalled = not stalled
            on_stall(stalled)
    on_loss()
