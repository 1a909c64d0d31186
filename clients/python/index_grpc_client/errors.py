"""What calls raise: one family, one class for each status code the service uses, some for single reasons.

All are `grpc.RpcError`s with `code()` and `details()`, so code that handles gRPC errors handles these. The error of
grpc itself, with all its metadata, is the `__cause__`.
"""

import asyncio
from collections.abc import Iterable, Iterator
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
        self.metadata = details.metadata
        """Values of the message for programs, such as `context_length`, all of them text; empty if there are none."""
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


class PromptTooLongError(InvalidRequestError):
    """The prompt with its history leaves no room in the model's context for an answer; `metadata` has the counts."""


class ModelNotFoundError(IndexGrpcError):
    """`model` was given, and the server serves another one."""


class UnavailableError(IndexGrpcError):
    """The server cannot be reached, or is loading, full or about to stop, and went on being so for all retries."""


class IncompleteAnswerError(UnavailableError):
    """A streamed answer was cut off: the server, or a proxy or connection on the way, went away. `text` is what came.

    `code()` is how that arrived, which differs from proxy to proxy.
    """


class DeadlineError(IndexGrpcError):
    """The timeout passed, or the server saw that the answer could not begin in time."""


class UnauthenticatedError(IndexGrpcError):
    """The API key is missing, wrong or out of date."""


class LimitExceededError(IndexGrpcError):
    """The key may not ask for more now (`reason` is RATE_LIMITED), or a message is larger than may be sent."""


def was_too_large(error: LimitExceededError) -> bool:
    """Tells whether a message was larger than may be sent or received, which gRPC itself refuses in these words."""
    return "larger than max" in error.details()


class CallCancelledError(IndexGrpcError):
    """The call was cancelled: by `close()` from elsewhere, or by the server as it stopped."""


class InternalError(IndexGrpcError):
    """The server failed; `request_id` finds the failure in its log."""


ERRORS: dict[grpc.StatusCode, type[IndexGrpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
}
"""The class for each status code; others are IndexGrpcError."""

ERRORS_BY_REASON: dict[str, type[IndexGrpcError]] = {
    "PROMPT_TOO_LONG": PromptTooLongError,
    "MODEL_NOT_FOUND": ModelNotFoundError,
}
"""The class for each reason that says more than its status code does; it counts first."""

CODES_WHEN_CUT_OFF = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
"""What gRPC makes of a stream that a proxy resets, or ends without a status, when it has lost the server behind it."""
RESET = "RST_STREAM"
"""Stands in gRPC's message where the other side has reset the stream. A call that was cancelled here has no such word;
and asyncio forgets messages that came right before, so that an answer may not seem to have begun."""


class Identified(Protocol):
    """What has a request's id, which may become known only as it is answered."""

    @property
    def request_id(self) -> str:
        """Identifies the call in the server's log."""


class Answer(Protocol):
    """A streamed answer, as far as it has come."""

    @property
    def has_begun(self) -> bool:
        """Whether a message has come."""

    @property
    def text(self) -> str:
        """The text so far."""


def translate(error: grpc.RpcError, request_id: str = "", answer: Answer | None = None) -> IndexGrpcError:
    """Returns the error of a call, synchronous or asyncio, as one of ours."""
    code, message = error.code(), error.details() or ""
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    details = status_details(trailers)
    kind = ERRORS_BY_REASON.get(details.reason) or ERRORS.get(code, IndexGrpcError)
    if answer is not None and _was_cut_off(code, message, details.reason, answer.has_begun):
        kind = IncompleteAnswerError
    return kind(message, code, details, request_id=request_id, text=answer.text if answer else "")


def _was_cut_off(code: grpc.StatusCode, message: str, reason: str, has_begun: bool) -> bool:
    """Whether an answer was lost on the way, rather than never begun, or ended by the service or by the caller."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return has_begun
    if code is grpc.StatusCode.CANCELLED:
        return RESET in message
    return code in CODES_WHEN_CUT_OFF and not reason and (has_begun or RESET in message)


@contextmanager
def translated(call: Identified, answer: Answer | None = None) -> Iterator[None]:
    """Raises what a call raises inside as one of ours, with what had come of its answer."""
    try:
        yield
    except IndexGrpcError:
        raise
    except grpc.RpcError as error:
        raise translate(error, call.request_id, answer) from error
    except asyncio.CancelledError as error:
        # grpc.aio raises this also where the call was closed, and the task that waits for it was not cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise cancelled(call, answer) from error


def cancelled(call: Identified, answer: Answer | None = None) -> CallCancelledError:
    """Returns the error of a call that was cancelled here, with what had come of its answer."""
    message, text = "the call was closed while it ran", answer.text if answer else ""
    return CallCancelledError(message, grpc.StatusCode.CANCELLED, request_id=call.request_id, text=text)
