"""Waits until a server is ready. What both clients do alike while they wait is here."""

import time

import grpc

from index_grpc_client.errors import (
    CODES_WHEN_CUT_OFF,
    RESET,
    CallCancelledError,
    DeadlineError,
    IndexGrpcError,
    LimitExceededError,
    UnavailableError,
)
from index_grpc_client.limits import allowed_timeout
from index_grpc_client.result import HealthStatus

FIRST_CHECK_S, LONGEST_CHECK_S = 0.5, 8.0
"""The time for a health check; it doubles, since a busy server needs longer. Why there is no connection is known only
after a check, so the first one is short."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
"""The time between two health checks; it doubles too."""

LASTING = (
    "certificate has expired",
    "CERTIFICATE_VERIFY_FAILED",
    "Hostname Verification",
    "WRONG_VERSION_NUMBER",
    "security handshaker",
    "http1.x server",
    "Expected SETTINGS frame",
    "missing selected ALPN",
)
"""Parts of gRPC's messages about connections that fail however long one waits.

"Socket closed" is not among them: a server that encrypts closes connections that do not, and one that asks for a
certificate those without it, but so does the port of a container whose server has not opened its own port yet.
"""


class Wait:
    """One wait for readiness: how long its checks and pauses take, what ends it, and what was last seen."""

    def __init__(self, timeout: float, place: str) -> None:
        """`timeout` is in seconds; `place` names the server. Raises ValueError or TypeError for a bad timeout."""
        self._timeout, self._place = allowed_timeout(timeout), place
        self._until = time.monotonic() + self._timeout
        self._check_s, self._pause_s = FIRST_CHECK_S, FIRST_PAUSE_S
        self._seen = ""
        self._failure: IndexGrpcError | None = None

    def next_check(self) -> float:
        """Returns for how many seconds the next health check may take."""
        return min(self._check_s, max(self._left(), 0.001))

    def next_pause(self) -> float:
        """Returns the seconds until the next health check. Raises DeadlineError if the timeout has passed."""
        left = self._left()
        if left <= 0:
            message = f"{self._place} was not ready within {self._timeout:g} s: {self._seen}, or allow more time"
            raise DeadlineError(message, grpc.StatusCode.DEADLINE_EXCEEDED) from self._failure
        asked = (self._failure and self._failure.retry_after) or 0.0
        pause, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return min(max(pause, asked), left)

    def is_over(self, status: HealthStatus) -> bool:
        """Returns whether a server with this status is ready."""
        self._see(f"its health is {status}; it may be loading the model: see its log")
        return status is HealthStatus.SERVING

    def goes_on_after(self, error: IndexGrpcError) -> bool:
        """Returns whether waiting may mend what a health check failed with.

        Raises UnavailableError if there will never be a connection, since `error` says that a timeout passed.
        """
        match error:
            case UnavailableError(reason=""):
                self._be_unreachable(error)
            case DeadlineError():
                if not self._seen or self._left() > 0:  # the last check may have had too little time for an answer
                    self._see("it does not answer; see its log", error)
            case UnavailableError() | LimitExceededError(retry_after=float()) | CallCancelledError():
                self._see(f"it refuses health checks ({error.details()}); see its log", error)
            case _ if error.code() in CODES_WHEN_CUT_OFF and RESET in error.details():
                self._see(f"a proxy lost it ({error.details()}); see its log", error)
            case _:
                return False
        self._check_s = min(2 * self._check_s, LONGEST_CHECK_S)
        return True

    def _be_unreachable(self, error: UnavailableError) -> None:
        cause = error.__cause__
        problem = str(cause.details() if isinstance(cause, grpc.RpcError) else error.details())
        if "last error" in problem and any(sign in problem for sign in LASTING):
            raise UnavailableError(problem, error.code()) from cause
        self._see(f"it cannot be reached ({problem}); start it, correct the address or the credentials", error)

    def _see(self, what: str, failure: IndexGrpcError | None = None) -> None:
        # Without its traceback, whose frames refer to this object.
        self._seen, self._failure = what, failure and failure.with_traceback(None)

    def _left(self) -> float:
        return self._until - time.monotonic()
