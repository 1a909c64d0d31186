"""A running `index-grpc serve` in a separate process."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

INDEX_GRPC = str(Path(sys.executable).parent / "index-grpc")
MOST_SECONDS_TO_EXIT = 10


class Process:
    """A running `index-grpc serve`, whose log is read as it comes."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line of the log that matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._news:
            assert self._news.wait_for(found, timeout=60), self.lines
            match = found()
            assert match is not None
            return match

    def address(self) -> str:
        """Waits until it is ready and returns its address."""
        return self.wait_for(r"ready in [0-9.]+ s; try:  \S*index-client --address (\S+) ask 你好")[1]

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._popen.pid

    @property
    def children(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return psutil.Process(self._popen.pid).children()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, as a person or an orchestrator would."""
        self._popen.send_signal(number)

    def exit_code(self, seconds: float = MOST_SECONDS_TO_EXIT) -> int:
        """Waits for the process to end, which must happen soon, and returns its exit code."""
        code = self._popen.wait(seconds)
        self._reader.join()
        return code

    def end(self) -> None:
        """Ends the process, whatever its state."""
        self._popen.kill()
        self._popen.wait()
        self._reader.join()
        assert self._popen.stderr is not None
        self._popen.stderr.close()


@contextmanager
def running(*command: str, **environment: str) -> Iterator[Process]:
    process = Process(list(command), environment)
    try:
        yield process
    finally:
        process.end()


def serving(*arguments: str, **environment: str) -> AbstractContextManager[Process]:
    return running(INDEX_GRPC, "serve", *arguments, **environment)


def no_traceback(lines: list[str]) -> bool:
    return not any("Traceback" in line or "Error" in line for line in lines)
