"""Servers for experiments, in this process or as the command that users run."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from index_grpc.launch import load
from index_grpc.server.app import App
from index_grpc.settings import ServeSettings

COMMAND = Path(sys.executable).with_name("index-grpc")
STOP_SECONDS = 60.0


@asynccontextmanager
async def in_process(**settings: object) -> AsyncIterator[tuple[App, str]]:
    """A loaded server of this process and its address."""
    chosen = ServeSettings.model_validate({"port": 0, **settings})
    app = App(chosen)
    address = await app.listen()
    try:
        await app.load(lambda: load(chosen))
        yield app, address
    finally:
        await app.stop()


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Ends a server's process after the block, in order or, if that takes too long, at once."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
