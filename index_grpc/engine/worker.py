"""What runs the loop: a thread beside the event loop, or a process of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from index_grpc.engine.in_flight import Runner
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import EngineUpdate, Order
from index_grpc.engine.scheduler import Limits, Scheduler

ENGINE_THREAD = "engine"

Receive = Callable[[EngineUpdate], None]
Ended = Callable[[], None]

log = logging.getLogger(__name__)


class Worker(Protocol):
    """Runs a loop. Used from one event loop; orders go in, each step's update comes out in one hop."""

    broke: bool
    """Whether it ended other than by an order to stop."""
    is_replaceable: bool
    """Whether another may take its place once it broke: nothing of it can have been left in disorder here."""

    async def start(self, receive: Receive, ended: Ended) -> None:
        """Starts. Calls `receive` with each step's update and `ended` once at the end, on the running event loop."""

    def post(self, order: Order) -> None:
        """Sends an order; does nothing once it has ended."""

    def abandon(self) -> None:
        """Leaves it behind amid a step that takes too long."""


class ThreadWorker:
    """Runs the loop in a daemon thread of this process."""

    is_replaceable = False

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self.broke = False
        self._inbox: SimpleQueue[Order] = SimpleQueue()
        self._loop = Loop(Scheduler(limits), runner, self._deliver, self._inbox)
        self._thread = threading.Thread(target=self._work, name=ENGINE_THREAD, daemon=True)

    async def start(self, receive: Receive, ended: Ended) -> None:
        """See Worker."""
        self._events, self._receive, self._ended = asyncio.get_running_loop(), receive, ended
        self._thread.start()

    def post(self, order: Order) -> None:
        """See Worker."""
        self._inbox.put(order)

    def abandon(self) -> None:
        """See Worker. A thread cannot be ended from outside; it goes with the process."""

    def _deliver(self, update: EngineUpdate) -> None:
        self._events.call_soon_threadsafe(self._receive, update)

    def _work(self) -> None:
        try:
            self._loop.run()
        except Exception:
            log.exception("the engine's loop broke")
            self.broke = True
        self._events.call_soon_threadsafe(self._ended)
