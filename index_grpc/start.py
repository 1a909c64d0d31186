"""Starts the command line; what takes long is imported behind it, so that a server can be stopped from the first."""

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
    """Until the server has its own handlers. As a container's first process it would not even be killed without."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(_: int, __: FrameType | None) -> None:
    os._exit(0)  # nothing has begun that would have to end
