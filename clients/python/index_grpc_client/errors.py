"""What calls raise: one family, one class for each status code the service uses.

All are `grpc.RpcError`s with `code()` and `details()`, so code that handles gRPC errors handles these. The error of
grpc itself, with all its metadata, is the `__cause__`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import grpc

from index_grpc_client.status import StatusDetails, Violation, status_details


class IndexGrpcError(grpc.RpcError):
    """A call failed. Raised as it is for status codes that have no class of their own."""

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        details: StatusDetails | None = None,
        *,
        request_id: str = "",
        text: str = "",
    ) -> None:
        super().__init__(message)
        details = details or StatusDetails()
        self._code = code
        self._message = message
        self.reason = details.reason
        """A stable word for programs, such as `PROMPT_TOO_LONG`; empty if the server did not give one."""
        self.request_id = details.request_id or request_id
        """Names the call in the server's log; empty if neither side named it."""
        self.violations: tuple[Violation, ...] = details.violations
        """Everything that is wrong with the request; empty for other failures."""
        self.retry_after = details.retry_after
        """Seconds after which the server asks to try again; None if it did not say."""
        self.text = text
        """What had come of a streamed answer when the call failed."""

    def code(self) -> grpc.StatusCode:
        """Returns the status code."""
        return self._code

    def details(self) -> str:
        """Returns the status' text."""
        return self._message

    def __str__(self) -> str:
        told = [f"{violation.field}: {violation.description}" for violation in self.violations]
        lines = [self._message or self._code.name]
        lines += [f"  {line}" for line in told if line not in self._message]
        return "\n".join(lines)


class InvalidRequestError(IndexGrpcError):
    """The request cannot be answered as it is; `violations` lists all that is wrong with it."""


class ModelNotFoundError(IndexGrpcError):
    """`model` was given, and the server serves another one."""


class UnavailableError(IndexGrpcError):
    """The server cannot be reached, or is loading, full or about to stop, and went on being so for all retries."""


class DeadlineError(IndexGrpcError):
    """The timeout passed, or the server saw that the answer could not begin in time."""


class UnauthenticatedError(IndexGrpcError):
    """The API key is missing, wrong or out of date."""


class LimitExceededError(IndexGrpcError):
    """The key may not ask for more now (`reason` is RATE_LIMITED), or a message is larger than may be sent."""


class CallCancelledError(IndexGrpcError):
    """The call was cancelled: by `close()` from elsewhere, or by the server as it stopped."""


class InternalError(IndexGrpcError):
    """The server failed; `request_id` finds the failure in its log."""


class IncompleteAnswerError(InternalError):
    """A stream ended well but without a finish: something between the model and here cut it. `text` is what came."""


ERRORS: dict[grpc.StatusCode, type[IndexGrpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
}
"""The class for each status code; others are IndexGrpcError."""


def translate(error: grpc.RpcError, request_id: str = "", text: str = "") -> IndexGrpcError:
    """Returns the error of a call, synchronous or asyncio, as one of ours."""
    code = error.code()
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    details = status_details(trailers)
    return ERRORS.get(code, IndexGrpcError)(error.details() or "", code, details, request_id=request_id, text=text)


class Identified(Protocol):
    """What has a request's id, which may become known only as it is answered."""

    @property
    def request_id(self) -> str:
        """Identifies the call in the server's log."""


@contextmanager
def translated(call: Identified, text: Callable[[], str] = str) -> Iterator[None]:
    """Raises what a call raises inside as one of ours; `text` tells what had come of its answer."""
    try:
        yield
    except IndexGrpcError:
        raise
    except grpc.RpcError as error:
        raise translate(error, call.request_id, text()) from error
    except asyncio.CancelledError as error:
        # grpc.aio raises this also where the call was closed, and the task that waits for it was not cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        message = "the call was closed while it ran"
        raise CallCancelledError(message, grpc.StatusCode.CANCELLED, request_id=call.request_id, text=text()) from error
