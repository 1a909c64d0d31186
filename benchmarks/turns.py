"""Processes that take turns on the same cores: one side stands still while the other runs.

A shared machine's pace drifts by a tenth within seconds. What alternates faster than that meets the same pace.
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
    """A number in a file's memory, which one process counts up and others read."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(8)
            self._cell = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    @property
    def value(self) -> int:
        """How far it is."""
        return self._cell[0]

    def add(self, number: int) -> None:
        """Counts."""
        self._cell[0] += number


class Side:
    """Processes that do one thing together and count it."""

    def __init__(self, name: str, pids: Iterable[int], counter: Counter) -> None:
        """`pids` are processes; those that they have started by the time they are warm belong to them."""
        self.name, self._processes, self._counter = name, [psutil.Process(pid) for pid in pids], counter

    def warm_up(self, count: int) -> None:
        """Lets it count so far, then has it stand still. Raises RuntimeError if it does not get there."""
        until = time.monotonic() + READY_SECONDS
        while self._counter.value < count:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name}: {self._counter.value} of {count} after {READY_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)
        self._processes += [child for one in self._processes for child in one.children(recursive=True)]
        self.signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> float:
        """How much it counts a second, while it runs for so long."""
        before, started = self._counter.value, time.perf_counter()
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        return (self._counter.value - before) / (time.perf_counter() - started)

    def signal(self, number: signal.Signals) -> None:
        """To all its processes."""
        for process in self._processes:
            process.send_signal(number)


@contextmanager
def let_go(sides: Sequence[Side]) -> Iterator[None]:
    """After the block all run again, so that they can be ended."""
    try:
        yield
    finally:
        for side in sides:
            side.signal(signal.SIGCONT)
