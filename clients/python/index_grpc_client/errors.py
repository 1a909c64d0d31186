"""The exceptions that calls raise: a base class, and classes for status codes and for some reasons.

All are subclasses of `grpc.RpcError` with `code()` and `details()`, so code that handles gRPC's errors handles these
too. If gRPC raised an error, that error, with all its metadata, is the `__cause__`.
"""

from collections.abc import Iterable
from typing import Protocol, cast

import grpc

from index_grpc_client.status import StatusDetails, Violation, status_details


class IndexGrpcError(grpc.RpcError):
    """A call failed. This class itself is raised for status codes that have no class of their own."""

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
        """A stable identifier for programs, such as `PROMPT_TOO_LONG`; empty if the server did not send one."""
        self.metadata = details.metadata
        """Values of the message for programs, such as `context_length`, each as text; empty if there are none."""
        self.request_id = details.request_id or request_id
        """The call's id in the server's log; empty if neither the caller nor the server gave one."""
        self.violations: tuple[Violation, ...] = details.violations
        """The request's mistakes that the server listed; empty for other failures."""
        self.retry_after = details.retry_after
        """The seconds after which the server asks to try again; None if it did not say."""
        self.text = text
        """The text of a streamed answer that had arrived when the call failed."""

    def code(self) -> grpc.StatusCode:
        """Returns the status code."""
        return self._code

    def details(self) -> str:
        """Returns the text of the status."""
        return self._message

    def __str__(self) -> str:
        told = [f"{violation.field}: {violation.description}" for violation in self.violations]
        lines = [self._message or self._code.name]
        lines += [f"  {line}" for line in told if line not in self._message]
        return "\n".join(lines)


class InvalidRequestError(IndexGrpcError):
    """The request cannot be answered as it is; `violations` lists all mistakes, as many as fit into the trailers."""


class PromptTooLongError(InvalidRequestError):
    """The prompt with its history leaves no room for an answer in the model's context; `metadata` has the counts."""


class ModelNotFoundError(IndexGrpcError):
    """The option `model` was given, and the server serves another model."""


class UnavailableError(IndexGrpcError):
    """The server cannot be reached, is loading, full or stopping, or its engine is stuck or lost.

    It is raised after the last retry, unless the server told gRPC not to retry or an answer had already begun. It is
    also raised if the timeout passed and the last attempt to connect had failed.
    """


class IncompleteAnswerError(UnavailableError):
    """A streamed answer was cut off: the server, a proxy or the connection was lost. `text` is the text that arrived.

    `code()` is the status code that gRPC reported, which differs from proxy to proxy.
    """


class DeadlineError(IndexGrpcError):
    """The timeout passed, or the request's time limit did before the answer could begin."""


class UnauthenticatedError(IndexGrpcError):
    """The API key is missing, wrong or out of date."""


class LimitExceededError(IndexGrpcError):
    """The key's limits allow no more calls now (`reason` is RATE_LIMITED), or a message is too large."""


def was_too_large(error: LimitExceededError) -> bool:
    """Returns whether a message was too large to be sent or received. gRPC itself refuses it, with this text."""
    return "larger than max" in error.details()


class CallCancelledError(IndexGrpcError):
    """The call was cancelled, by `close()` while it was running, or by the server when it stopped."""


class InternalError(IndexGrpcError):
    """The server failed. Its log describes the failure under the `request_id`."""


ERRORS: dict[grpc.StatusCode, type[IndexGrpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
}
"""The class for each status code; IndexGrpcError is for all others."""

ERRORS_BY_REASON: dict[str, type[IndexGrpcError]] = {
    "PROMPT_TOO_LONG": PromptTooLongError,
    "MODEL_NOT_FOUND": ModelNotFoundError,
}
"""The class for each reason that has one; it takes precedence over the class for the status code."""

CODES_WHEN_CUT_OFF = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
"""The codes that gRPC reports if a proxy that lost its server resets the stream or ends it without a status."""
RESET = "RST_STREAM"
"""gRPC's message has this word if the other side reset the stream, but not if the call was cancelled here.

The word is needed because grpc.aio drops messages that arrived right before a reset: then an answer seems not to have
begun although it had.
"""


class Identified(Protocol):
    """An object with a request's id, which may become known only when the answer begins."""

    @property
    def request_id(self) -> str:
        """The call's id in the server's log."""


class Answer(Protocol):
    """A streamed answer, as far as it has arrived."""

    @property
    def has_begun(self) -> bool:
        """Whether a message has arrived."""

    @property
    def text(self) -> str:
        """The text so far."""


def translate(error: grpc.RpcError, request_id: str = "", answer: Answer | None = None) -> IndexGrpcError:
    """Returns gRPC's error of a call, synchronous or asyncio, as an exception of this module."""
    code, message = error.code(), error.details() or ""
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    details = status_details(trailers)
    kind = ERRORS_BY_REASON.get(details.reason) or ERRORS.get(code, IndexGrpcError)
    if answer is not None and _was_cut_off(code, message, details.reason, answer.has_begun):
        kind = IncompleteAnswerError
    return kind(message, code, details, request_id=request_id, text=answer.text if answer else "")


def _was_cut_off(code: grpc.StatusCode, message: str, reason: str, has_begun: bool) -> bool:
    """Returns whether an answer was lost on the way. If not, it never began, or the service or the caller ended it."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return has_begun
    if code is grpc.StatusCode.CANCELLED:
        return RESET in message
    return code in CODES_WHEN_CUT_OFF and not reason and (has_begun or RESET in message)


def cancelled(call: Identified, answer: Answer | None = None) -> CallCancelledError:
    """Returns the error of a call that was cancelled on this side, with the text that had arrived."""
    message, text = "the call was closed while it ran", answer.text if answer else ""
    return CallCancelledError(message, grpc.StatusCode.CANCELLED, request_id=call.request_id, text=text)
