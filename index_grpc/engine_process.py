"""The engine's process: loads the model, then runs the loop until the server stops it or ends.

`engine.process` has the server's side.
"""

import logging
import os
import signal
import socket
import sys
import threading
from queue import SimpleQueue
from typing import NoReturn

from index_grpc.collector import freeze_heap
from index_grpc.engine.loop import Loop
from index_grpc.engine.orders import EngineUpdate, Order
from index_grpc.engine.pipe import framed, receive
from index_grpc.engine.process import Ready
from index_grpc.engine.scheduler import Scheduler
from index_grpc.errors import StartupError
from index_grpc.logs import configure_logging, flush_log
from index_grpc.settings import ServeSettings

log = logging.getLogger(__name__)


def main() -> None:
    """Runs the process. Its first argument is the file descriptor of its end of the socket."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to the process group is meant for the server, which drains
    end = socket.socket(fileno=int(sys.argv[1]))
    settings: ServeSettings = receive(end)
    configure_logging(settings.log_level, settings.log_format)
    inbox: SimpleQueue[Order] = SimpleQueue()
    threading.Thread(target=read_orders, args=(end, inbox), name="orders", daemon=True).start()
    try:
        run(settings, end, inbox)
    except Exception:
        log.exception("the engine's process broke")
        end_process(1)
    end_process(0)


def run(settings: ServeSettings, end: socket.socket, inbox: "SimpleQueue[Order]") -> None:
    """Loads the model and runs the loop until told to stop."""
    from index_grpc.loading import load_runner  # slow to import: `read_orders` already watches the server

    def deliver(update: EngineUpdate) -> None:
        end.sendall(framed(update))

    try:
        loaded = load_runner(settings)
    except StartupError as error:
        end.sendall(framed(error))
        return
    freeze_heap()
    loop = Loop(Scheduler(loaded.limits), loaded.runner, deliver, inbox)
    end.sendall(framed(Ready(loaded.model, loaded.limits, loaded.directory)))
    loop.run()


def read_orders(end: socket.socket, inbox: "SimpleQueue[Order]") -> None:
    """Puts the server's orders into the inbox. Ends the process when the server is gone, or sends what is no order."""
    try:
        while True:
            inbox.put(receive(end))
    except EOFError:
        end_process(0)
    except Exception:
        log.exception("an order of the server cannot be read; the engine's process ends")
        end_process(1)  # the loop would wait for orders for ever


def end_process(exit_code: int) -> NoReturn:
    """Ends the process from any of its threads. A normal exit would wait for threads in native code."""
    flush_log()
    os._exit(exit_code)


if __name__ == "__main__":
    main()
