"""What happens to every call, whichever port it comes through: its caller is known, it is counted, its end is told."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from index_grpc.access.gate import Gate
from index_grpc.errors import DeadlineTooShort, Draining, IndexGrpcError, RequestFailed
from index_grpc.server.call import Call, authorization
from index_grpc.server.status import CODES

log = logging.getLogger(__name__)

AnyError = TypeVar("AnyError", bound=BaseException)

_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """Returns the call that the running handler serves."""
    return _current.get()


class Calls:
    """Authenticates and counts every call, whichever port it comes through, and reports its end."""

    def __init__(self, gate: Gate, ended: Callable[[Call], None], *, keeps_texts: bool) -> None:
        self._gate, self._ended, self._keeps_texts = gate, ended, keeps_texts
        self.num_open = 0
        self._idle = asyncio.Event()
        self._is_cutting_off = False

    def cut_off(self) -> None:
        """Called when the server stops: handlers that are cancelled from now on are cut off by it.

        Only those of callers who do not read are, since the others learn an error from the engine or are refused.
        """
        self._is_cutting_off = True

    async def until_idle(self) -> None:
        """Waits until no call is open."""
        while self.num_open:
            self._idle.clear()
            await self._idle.wait()

    @contextmanager
    def served(self, call: Call) -> Iterator[None]:
        """Authenticates the call and counts it while the block runs; then records how it ended, and reports it.

        Every Exception leaves as an IndexGrpcError, which the call's port turns into a response.
        """
        _current.set(call)
        call.deltas = [] if self._keeps_texts else None
        self.num_open += 1
        try:
            caller = self._gate.caller(authorization(call.metadata))
            call.caller = caller.name
            with self._gate.counted(caller, lambda: call.was_served):
                yield
            call.code = "OK"
        except asyncio.CancelledError:
            if call.is_out_of_time:
                _expire(call)
            elif self._is_cutting_off:
                _fail(call, Draining("the server stopped before the answer was read; call another server"))
            raise
        except IndexGrpcError as error:
            _fail(call, error)
            raise
        except Exception:
            log.exception("request %s: %s broke", call.id, call.method)
            failure = RequestFailed("the server broke while answering")
            _fail(call, failure)
            raise failure from None
        finally:
            self.num_open -= 1
            if not self.num_open:
                self._idle.set()
            self._ended(call)
            call.release()


def without_frames(error: AnyError) -> AnyError:
    """Returns the error without its traceback, cause and context, which refer to frames, and these to the request.

    Where something in the frames refers to the error in turn, they would stay until Python collects such cycles, which
    may be after gigabytes of requests.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _expire(call: Call) -> None:
    """Records that the call's deadline passed. Its caller's own gRPC has reported that, without details."""
    if call.is_chat and not call.has_token:
        _fail(call, DeadlineTooShort("the call's deadline passed before its first token; allow more time"))
    else:
        call.code = "DEADLINE_EXCEEDED"


def _fail(call: Call, error: IndexGrpcError) -> None:
    call.error, call.code = error, CODES[type(error)].name
