"""A worker in its own process: it shares no interpreter with the server, and a crash does not end the server.

    server                                 engine's process (`index_grpc.engine_process`)
    start_process  ── settings ─────────▶  loads the model
                   ◀─ Ready or an error ─
    ProcessWorker  ── orders ───────────▶  runs the loop
                   ◀─ a step's reports ──

When one process ends, the socket between them closes, so the other notices at once.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from index_grpc.datatypes import ServedModel
from index_grpc.engine.limits import Limits
from index_grpc.engine.orders import Order, Stop
from index_grpc.engine.pipe import framed, receive, receive_async
from index_grpc.engine.worker import OnEnd, OnUpdate
from index_grpc.errors import StartupError
from index_grpc.settings import ServeSettings

MODULE = "index_grpc.engine_process"

LONGEST_END_SECONDS = 5.0
"""How long the process may take to end after the socket is closed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine process's message once the model is loaded."""

    model: ServedModel
    limits: Limits
    directory: Path
    """The checkpoint's directory."""


def start_process(settings: ServeSettings) -> "tuple[ProcessWorker, Ready]":
    """Starts the engine's process and waits until its model is loaded. Raises StartupError if that is not possible."""
    try:
        process, ours = _start()
    except OSError as error:
        raise StartupError(f"the engine's process cannot be started: {error.strerror}") from error
    worker = ProcessWorker(process, ours)
    try:
        ours.sendall(framed(settings))
        answer = receive(ours)
    except (EOFError, ConnectionError):
        raise StartupError(f"the engine's process ended while loading ({worker.reap()})") from None
    if isinstance(answer, Ready):
        return worker, answer
    worker.reap()
    raise answer


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, *_options(), "-m", MODULE, str(its.fileno())]
        # In its own session Ctrl-C does not reach the process: the server completes its calls first.
        process = subprocess.Popen(
            command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, env=_environment()
        )
    return process, ours


class ProcessWorker:
    """A worker that sends orders to the engine's process and receives its updates."""

    is_replaceable = True

    def __init__(self, process: subprocess.Popen[bytes], end: socket.socket) -> None:
        self.process, self.broke = process, False
        self._end, self._stopping = end, False

    async def start(self, on_update: OnUpdate, on_end: OnEnd) -> None:
        """See Worker."""
        reader, self._writer = await asyncio.open_connection(sock=self._end)
        self._reading = asyncio.create_task(self._read_updates(reader, on_update, on_end))

    def post(self, order: Order) -> None:
        """See Worker."""
        self._stopping = self._stopping or isinstance(order, Stop)
        if not self._writer.is_closing():
            self._writer.write(framed(order))

    def abandon(self) -> None:
        """See Worker."""
        self.process.kill()

    def reap(self) -> str:
        """Waits for the process to end, kills it after LONGEST_END_SECONDS, and returns the exit code or signal."""
        self._end.close()
        try:
            code = self.process.wait(LONGEST_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    async def _read_updates(self, reader: asyncio.StreamReader, on_update: OnUpdate, on_end: OnEnd) -> None:
        """Passes on updates until the process ends; an update that cannot be read or handled ends it."""
        try:
            while True:
                on_update(await receive_async(reader))
        except EOFError:
            self.broke = not self._stopping
        except Exception:
            log.exception("an update of the engine's process cannot be handled; the process counts as lost")
            self.broke = True
            self.process.kill()
        self._writer.close()
        on_end()
        cause = await asyncio.to_thread(self.reap)
        if self.broke:
            log.error("the engine's process ended: %s", cause)


def _options() -> list[str]:
    """Returns the option that ignores modules in the working directory, unless this process imports from there."""
    return [] if {"", os.getcwd()} & set(sys.path) else ["-P"]


def _environment() -> dict[str, str]:
    """Returns an environment without output buffering: a crash would lose the last lines in a buffer."""
    return os.environ | {"PYTHONUNBUFFERED": "1"}
