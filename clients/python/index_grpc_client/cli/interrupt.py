"""What Ctrl-C does: the first time it cancels what is awaited, the second time it ends the process at once."""

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
    """Has the work, the main task of asyncio's runner, end the process if Ctrl-C comes again while it is left.

    Raised a second time, by asyncio's own handler or after it, KeyboardInterrupt would come up anywhere inside gRPC,
    which prints a traceback then or never ends.
    """

    @functools.wraps(work)
    async def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        cancel, in_main = signal.getsignal(signal.SIGINT), threading.current_thread() is threading.main_thread()
        if not (in_main and isinstance(cancel, functools.partial)):
            return await work(*args, **options)  # asyncio has not set its own either, as where Ctrl-C is ignored

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
    """Handles Ctrl-C by ending the process as it is."""
    os._exit(Exit.INTERRUPTED)
