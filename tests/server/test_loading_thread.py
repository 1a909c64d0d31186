"""The thread that loads the model may outlive the server's event loop."""

import asyncio
import threading
from typing import NoReturn

from index_grpc.errors import StartupError
from index_grpc.server.loaded import Loaded, in_daemon_thread


def test_a_load_that_ends_after_the_server_has_stopped_says_nothing() -> None:
    may_end, loading = threading.Event(), list[threading.Thread]()

    def load() -> NoReturn:
        loading.append(threading.current_thread())
        may_end.wait(30)
        raise StartupError("no such model")

    async def stop_while_loading() -> None:
        waiting: asyncio.Task[Loaded] = asyncio.create_task(in_daemon_thread(load))
        while not loading:
            await asyncio.sleep(0.001)
        waiting.cancel()

    told = list[object]()
    before, threading.excepthook = threading.excepthook, told.append
    try:
        asyncio.run(stop_while_loading())
        may_end.set()
        loading[0].join(30)
    finally:
        threading.excepthook = before
    assert told == []
