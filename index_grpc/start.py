"""The entry point of `index-grpc`. Handles signals before the slow imports, so a starting server can be stopped."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Runs the command line and exits."""
    if sys.argv[1:2] == ["serve"]:
        _heed_signals()
    from index_grpc.cli import main as index_grpc

    index_grpc()


def _heed_signals() -> None:
    """Makes signals end the process until the server sets its own handlers.

    Without a handler, the kernel would ignore them for the first process of a container.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(_: int, __: FrameType | None) -> None:
    os._exit(0)  # nothing has begun that must be closed
