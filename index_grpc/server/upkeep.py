"""Keeps a model loaded: starts the engine again if its process dies."""

import asyncio
import logging
import time
from dataclasses import dataclass

from index_grpc.errors import StartupError
from index_grpc.server.loaded import Load
from index_grpc.server.supervisor import EngineSupervisor

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


async def keep_loaded(supervisor: EngineSupervisor, load: Load, policy: RestartPolicy) -> None:
    """Loads the model again whenever the engine is lost. Raises StartupError if that is impossible or keeps failing."""
    num_failures = 0
    while True:
        since = time.monotonic()
        await supervisor.lost.wait()
        if supervisor.engine is None or not supervisor.engine.is_replaceable:
            raise StartupError("the engine broke; see the log above")
        if time.monotonic() - since >= policy.steady_seconds:
            num_failures = 0
        num_failures = await _load_again(supervisor, load, policy, num_failures + 1)


async def _load_again(supervisor: EngineSupervisor, load: Load, policy: RestartPolicy, num_failures: int) -> int:
    """Tries until the engine answers. Returns the number of failures in a row; raises StartupError if too many."""
    while num_failures < policy.most_failures:
        pause = policy.pause_seconds(num_failures)
        log.warning("the engine is lost; starting it again in %g s", pause)
        supervisor.expect_in(pause)
        await asyncio.sleep(pause)
        try:
            await supervisor.load(load)
        except StartupError as error:
            log.error("the engine did not start: %s", error)
            num_failures += 1
        else:
            log.info("the engine has been restarted")
            return num_failures
    raise StartupError(f"the engine was lost {num_failures} times in a row; see the log above")
