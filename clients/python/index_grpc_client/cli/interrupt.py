"""Handles Ctrl-C: the first one cancels the work that is awaited, the second one ends the process at once."""

import functools
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

from index_grpc_client.cli.failure import Exit

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def interruptible(
    work: Callable[Parameters, Coroutine[Any, Any, Result]],
) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
    """Returns work for asyncio's runner that a first Ctrl-C cancels. A second one, during that, ends the process.

    Otherwise the second Ctrl-C would raise KeyboardInterrupt at any place inside gRPC, which would then print a
    traceback or never end.
    """

    @functools.wraps(work)
    async def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        cancel, in_main = signal.getsignal(signal.SIGINT), threading.current_thread() is threading.main_thread()
        if not (in_main and isinstance(cancel, functools.partial)):
            return await work(*args, **options)  # asyncio set no handler either, for example if Ctrl-C is ignored

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, end_at_once)
            cancel(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            return await work(*args, **options)
        finally:
            if signal.getsignal(signal.SIGINT) is interrupt:
                signal.signal(signal.SIGINT, cancel)

    return run


def end_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    """Handles Ctrl-C by ending the process at once, without any cleanup."""
    os._exit(Exit.INTERRUPTED)
