"""Servers for experiments, in this process or as the command that users run."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from queue import Empty, SimpleQueue

import psutil

from index_grpc.collector import freeze_heap
from index_grpc.launch import load
from index_grpc.server.app import App
from index_grpc.settings import ServeSettings

COMMAND = (sys.executable, "-m", "index_grpc.cli")
"""The command that users run; works also if the package is not installed but on the path."""
READY = re.compile(r"ready in .*--address (\S+) ")
SEVERE = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) |^Traceback ")
STOP_SECONDS = 60.0
START_SECONDS = 120.0


@asynccontextmanager
async def in_process(**settings: object) -> AsyncIterator[tuple[App, str]]:
    """A loaded server in this process, and its address."""
    chosen = ServeSettings.model_validate({"port": 0, **settings})
    app = App(chosen)
    address = await app.listen()
    try:
        await app.supervisor.load(lambda: load(chosen))
        freeze_heap()  # as the command does
        yield app, address
    finally:
        await app.stop()


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Ends a server's process after the block: normally or, if that takes too long, by force."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Served:
    """A running `index-grpc serve`. Reads its log as it comes, and keeps only severe lines."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.severe: list[str] = []
        self.num_overloaded = 0
        """Calls that were refused because all places were taken."""
        self.process = psutil.Process(process.pid)
        self._popen, self._addresses = process, SimpleQueue[str]()
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self._found_address()

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def memory_bytes(self) -> int:
        """The resident memory of it and its engine's process."""
        return sum(one.memory_info().rss for one in (self.process, *self.process.children(recursive=True)))

    def _found_address(self) -> str:
        try:
            address = self._addresses.get(timeout=START_SECONDS)
        except Empty:
            raise RuntimeError(f"the server is not ready after {START_SECONDS:g} s: {self.severe[-5:]}") from None
        if not address:
            raise RuntimeError(f"the server ended with {self._popen.wait()}: {self.severe[-5:]}")
        return address

    def _read(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            if ready := READY.search(line):
                self._addresses.put(ready[1])
            elif SEVERE.search(line) or line.startswith("error:"):
                self.severe.append(line.rstrip())
            self.num_overloaded += "reason=OVERLOADED" in line
        self._addresses.put("")


@contextmanager
def as_process(*flags: str) -> Iterator[Served]:
    """Runs the command that users run, on a free port, and waits until it is ready."""
    command = [*COMMAND, "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with ended(process):
        yield Served(process)
