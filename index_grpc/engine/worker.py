"""Workers, which run the engine's loop: their protocol, and the worker in a thread. `process` has the other."""

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from index_grpc.engine.in_flight import Runner
from index_grpc.engine.limits import Limits
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import EngineUpdate, Order
from index_grpc.engine.scheduler import Scheduler

ENGINE_THREAD = "engine"

OnUpdate = Callable[[EngineUpdate], None]
OnEnd = Callable[[], None]

log = logging.getLogger(__name__)


class Worker(Protocol):
    """Runs the engine's loop. Used from one event loop: takes orders, and delivers each step's news in one update."""

    broke: bool
    """Whether it ended without an order to stop."""
    is_replaceable: bool
    """Whether another worker may replace it after it broke: only if it leaves no corrupt state in this process."""

    async def start(self, on_update: OnUpdate, on_end: OnEnd) -> None:
        """Starts the loop. Calls `on_update` with each update and, at the end, `on_end` on the running event loop."""

    def post(self, order: Order) -> None:
        """Sends an order; does nothing once the worker has ended."""

    def abandon(self) -> None:
        """Stops waiting for the worker, whose step takes too long; kills it if that is possible."""


class ThreadWorker:
    """Runs the loop in a daemon thread of this process."""

    is_replaceable = False

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self.broke = False
        self._is_abandoned, self._delivering = False, threading.Lock()
        """The event loop may be closed once the worker is abandoned, so neither may happen amid a delivery."""
        self._inbox: SimpleQueue[Order] = SimpleQueue()
        self._loop = Loop(Scheduler(limits), runner, self._deliver, self._inbox)
        self._thread = threading.Thread(target=self._work, name=ENGINE_THREAD, daemon=True)

    async def start(self, on_update: OnUpdate, on_end: OnEnd) -> None:
        """See Worker."""
        self._events, self._on_update, self._on_end = asyncio.get_running_loop(), on_update, on_end
        self._thread.start()

    def post(self, order: Order) -> None:
        """See Worker."""
        self._inbox.put(order)

    def abandon(self) -> None:
        """See Worker. A thread cannot be killed from outside: it ends with the process, and delivers nothing more."""
        with self._delivering:
            self._is_abandoned = True

    def _deliver(self, update: EngineUpdate) -> None:
        self._call(self._on_update, update)

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        """Calls back on the event loop, unless the worker is abandoned."""
        with self._delivering:
            if not self._is_abandoned:
                self._events.call_soon_threadsafe(callback, *args)

    def _work(self) -> None:
        try:
            self._loop.run()
        except Exception:
            log.exception("the engine's loop broke")
            self.broke = True
        self._call(self._on_end)
