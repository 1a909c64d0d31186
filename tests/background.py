"""A server on an event loop of its own, for tests that call it from plain, blocking code."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from index_grpc.launch import extra_ports
from index_grpc.server.app import App
from index_grpc.server.loaded import Load
from index_grpc.settings import ServeSettings

Result = TypeVar("Result")


class BackgroundServer:
    """A loaded App that runs in a thread."""

    def __init__(self, settings: ServeSettings, load: Load) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test server")
        self._thread.start()
        self.app, self.address = self.run(self._start, settings, load)

    def run(self, function: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
        """Runs a coroutine function on the server's loop and waits for its result."""

        async def call() -> Result:
            return await function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout=60)

    def stop(self) -> None:
        """Stops the server, then the loop."""
        self.run(self.app.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, settings: ServeSettings, load: Load) -> tuple[App, str]:
        app = App(settings, ports=extra_ports(settings))
        address = await app.listen()
        await app.supervisor.load(load)
        return app, address


@contextmanager
def background(settings: ServeSettings, load: Load) -> Iterator[BackgroundServer]:
    """A BackgroundServer, which is stopped at the end."""
    server = BackgroundServer(settings, load)
    try:
        yield server
    finally:
        server.stop()
