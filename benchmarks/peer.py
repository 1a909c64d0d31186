"""The process of a peer, as the driver starts and uses it."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

import psutil
from peers.protocol import Work

HERE = Path(__file__).resolve().parent
START_SECONDS = 900.0
"""How long a start may take; vLLM compiles when it starts."""
ROUND_SECONDS = 3600.0
STOP_SECONDS = 90.0
SETTLE_SECONDS = 10.0
SAMPLE_SECONDS = 0.3
IDLE_CORES = 0.05
LOG_LINES = 40


class Skipped(Exception):
    """The peer is not installed; the text says what to do."""


class PeerError(Exception):
    """The peer is installed but failed; the text ends with its last output."""


@dataclass(frozen=True)
class Contestant:
    """A peer to start: a module of `peers`, its interpreter, and the checkpoint."""

    name: str
    module: str
    checkpoint: Path
    interpreter: Path = Path(sys.executable)
    flags: tuple[str, ...] = ()

    def command(self, threads: int) -> list[str]:
        """The command line. Raises Skipped if the interpreter or the checkpoint is missing."""
        if not self.interpreter.exists():
            remedy = "python benchmarks/environments.py makes it"
            raise Skipped(f"skipped: {self.name} needs {self.interpreter}, which is not there; {remedy}")
        if not self.checkpoint.exists():
            remedy = "python benchmarks/convert.py writes it"
            raise Skipped(f"skipped: {self.name} needs {self.checkpoint}, which is not there; {remedy}")
        arguments = ["-m", f"peers.{self.module}", str(self.checkpoint.resolve()), "--threads", str(threads)]
        return [str(self.interpreter), *arguments, *(["--", *self.flags] if self.flags else [])]


@dataclass(frozen=True)
class Round:
    """A round as measured by a peer with its own clock; times are seconds from the round's start."""

    seconds: float
    first_token_s: list[float]
    end_s: list[float]
    num_tokens: list[int]
    step_s: list[float]
    """Duration of each step in which all sequences decoded; empty if the peer cannot measure it."""
    ids: list[list[int]]
    texts: list[str]
    """The answers, as ids or as texts; the other list is empty."""
    others_cores: float
    """Mean number of cores that others used meanwhile, including the machine's host."""


class Peer:
    """A running peer, as a context manager. All its processes end with the block."""

    def __init__(self, contestant: Contestant, threads: int, until: float = math.inf) -> None:
        """Starts the process and waits until it is ready. Raises Skipped or PeerError.

        After the instant `until` of `time.monotonic()` it waits for nothing.
        """
        self.name, self._until = contestant.name, until
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the peer
        self._process = subprocess.Popen(
            contestant.command(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=HERE,
            start_new_session=True,  # Ctrl-C reaches only the driver, and the whole group can be ended
        )
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.versions: Mapping[str, str] = self._message(START_SECONDS)["versions"]
        except BaseException:
            self.close()
            raise

    def round(self, work: Work) -> Round:
        """Lets the peer answer all prompts at once. Raises PeerError."""
        assert self._process.stdin
        processes = self._processes()
        started, before = time.monotonic(), _busy_seconds() - _cpu_seconds(processes)
        with suppress(BrokenPipeError):  # if the process has ended, its last message or its log says why
            print(json.dumps(asdict(work)), file=self._process.stdin, flush=True)
        message = self._message(ROUND_SECONDS)
        others = _busy_seconds() - _cpu_seconds(processes) - before
        return Round(**message, others_cores=max(0.0, others / (time.monotonic() - started)))

    def settle(self) -> float:
        """Waits until the peer's processes are idle, at most SETTLE_SECONDS, and returns how many cores they still use.

        Some keep a core busy for a while after a round.
        """
        processes = self._processes()
        until, burnt = time.monotonic() + SETTLE_SECONDS, math.inf
        while burnt > IDLE_CORES and time.monotonic() < until:
            started, before = time.monotonic(), _cpu_seconds(processes)
            time.sleep(SAMPLE_SECONDS)
            burnt = (_cpu_seconds(processes) - before) / (time.monotonic() - started)
        return burnt

    def close(self) -> None:
        """Ends the input, which ends the peer; kills the rest of its process group after STOP_SECONDS."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._exit_status(STOP_SECONDS)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _message(self, timeout: float) -> dict[str, Any]:
        """The next line that is a JSON object; libraries may print other lines before standard output is redirected."""
        line, timeout = "…", self._at_most(timeout)
        while not line.startswith("{"):
            try:
                line = self._lines.get(timeout=timeout)
            except Empty:
                raise PeerError(f"{self.name} said nothing for {timeout:g} s\n{self._last_log()}") from None
            if not line:
                raise self._ended()
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise PeerError(f"{self.name}: {message['error']}\n{self._last_log()}")
        return message

    def _ended(self) -> Exception:
        status, log = self._exit_status(STOP_SECONDS), self._last_log()
        last = log.rsplit("\n", 1)[-1]
        if last.startswith("ModuleNotFoundError"):
            return Skipped(f"skipped: {self.name}: {last.split(': ', 1)[-1]} for its interpreter; install it there")
        return PeerError(f"{self.name} ended with status {status}\n{log}")

    def _exit_status(self, timeout: float) -> int | None:
        """The exit status or signal; None if it still runs. Does not reap it, so that its group's id is not reused."""
        until = time.monotonic() + self._at_most(timeout)
        while time.monotonic() < until:
            if found := os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                return found.si_status
            time.sleep(0.05)
        return None

    def _at_most(self, seconds: float) -> float:
        """This many seconds, or fewer if its time ends before."""
        return max(0.0, min(seconds, self._until - time.monotonic()))

    def _last_log(self) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().rstrip().split("\n")[-LOG_LINES:])


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """The processor time of all processes that still run."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _busy_seconds() -> float:
    """The processor time of the whole machine, including what its host took from it."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
