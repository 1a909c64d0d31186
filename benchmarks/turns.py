"""Processes that take turns on the same cores: one side is stopped while the other runs.

The speed of a shared machine changes by a tenth within seconds. Sides that alternate faster get the same speed.
"""

import mmap
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

READY_SECONDS = 120.0
LOOK_SECONDS = 0.05


class Counter:
    """A number in a memory-mapped file, which one process increases and others read."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(8)
            self._cell = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    @property
    def value(self) -> int:
        """The present count."""
        return self._cell[0]

    def add(self, number: int) -> None:
        """Adds to the count."""
        self._cell[0] += number


class Side:
    """Processes that work together and count what they do."""

    def __init__(self, name: str, pids: Iterable[int], counter: Counter) -> None:
        """`pids` are the processes; their child processes at the end of the warm-up belong to the side too."""
        self.name, self._processes, self._counter = name, [psutil.Process(pid) for pid in pids], counter

    def warm_up(self, count: int) -> None:
        """Waits until the count reaches `count`, then stops the side. Raises RuntimeError if that takes too long."""
        until = time.monotonic() + READY_SECONDS
        while self._counter.value < count:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name}: {self._counter.value} of {count} after {READY_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)
        self._processes += [child for one in self._processes for child in one.children(recursive=True)]
        self.signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> float:
        """Lets the side run for this time; returns its count per second."""
        before, started = self._counter.value, time.perf_counter()
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        return (self._counter.value - before) / (time.perf_counter() - started)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all processes of the side."""
        for process in self._processes:
            process.send_signal(number)


@contextmanager
def continued(sides: Sequence[Side]) -> Iterator[None]:
    """Continues all sides after the block, so that they can be ended."""
    try:
        yield
    finally:
        for side in sides:
            side.signal(signal.SIGCONT)
