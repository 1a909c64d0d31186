"""Runs a server in its process, from the start to the signal that ends it."""

import asyncio
import logging
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from index_grpc.server.app import App, MakePort
from index_grpc.server.loaded import Load
from index_grpc.server.supervisor import RestartPolicy
from index_grpc.settings import ServeSettings

Signals = asyncio.Queue[signal.Signals]

ECHO_SECONDS = 0.1
"""For how long after a signal the same signal is ignored."""

log = logging.getLogger(__name__)


async def serve(settings: ServeSettings, load: Load, ports: Sequence[MakePort] = ()) -> None:
    """Runs until a signal has drained the server. Raises StartupError if it cannot start or its engine is lost."""
    app, signals, at_once = App(settings, ports=ports), _signals(), False
    running, stopping = asyncio.create_task(_run(app, load)), asyncio.create_task(signals.get())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        else:
            running.cancel()
            at_once = await _end(app, stopping.result(), signals)
    finally:
        running.cancel()
        await app.stop(at_once)
        log.info("stopped")
        _ignore_signals()


async def _run(app: App, load: Load) -> None:
    started = time.monotonic()
    address = await app.listen()
    log.info("loading %s; listening on %s", app.settings.model, address)  # last, since people copy the address
    await app.supervisor.load(load)
    options = app.access.port.client_options(address)
    log.info("ready in %.1f s; try:  %s %s ask 你好", time.monotonic() - started, _client(), options)
    await app.supervisor.keep_loaded(load, RestartPolicy())


async def _end(app: App, received: signal.Signals, signals: Signals) -> bool:
    """Drains the server, or stops it while it still loads. Returns True as soon as a second signal arrives."""
    ended, again = asyncio.create_task(_drain_or_stop(app, received)), asyncio.create_task(_second(received, signals))
    await asyncio.wait({ended, again}, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        again.cancel()
        ended.result()
        return False
    log.info("received %s; stopping at once", again.result().name)
    ended.cancel()
    return True


async def _drain_or_stop(app: App, received: signal.Signals) -> None:
    if app.supervisor.model is None:
        log.info("received %s while loading; stopping", received.name)
        await app.stop()
        return
    log.info("received %s", received.name)
    # After Ctrl-C a person waits at the keyboard; only an orchestrator needs time to send callers elsewhere.
    await app.drain(0.0 if received is signal.SIGINT else app.settings.drain_delay_seconds)


async def _second(received: signal.Signals, signals: Signals) -> signal.Signals:
    """Returns the next signal. Ignores an immediate repetition: tools such as make send it to a whole group twice."""
    until = time.monotonic() + ECHO_SECONDS
    while (again := await signals.get()) is received and time.monotonic() < until:
        pass
    return again


def _signals() -> Signals:
    """Returns the queue into which signals are put.

    It does not use the loop's own handlers: once the loop closes, the next signal would kill the process.
    """
    received: Signals = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def receive(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(received.put_nowait, signal.Signals(number))

    numbers = [signal.SIGINT, signal.SIGTERM]  # even if ignored: a shell's background jobs ignore SIGINT
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, receive)
    return received


def _ignore_signals() -> None:
    """Ignores signals while the process ends: one would kill it, as if it had not stopped in order."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _client() -> str:
    """Returns the command that runs index-client, as seen from where this server was started."""
    beside = Path(sys.argv[0]).with_name("index-client")
    return str(beside) if not shutil.which(beside.name) and beside.exists() else beside.name
