"""The table from errors to gRPC status codes, and how a status is sent with its details."""

import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc.aio import ServicerContext

from index_grpc import errors
from index_grpc.server.validate import MOST_VIOLATIONS

if TYPE_CHECKING:
    Context = ServicerContext[Any, Any]
else:
    Context = ServicerContext  # takes type arguments only in its stubs

DOMAIN = "index-grpc"

Trailer = tuple[str, str | bytes]

CODES: dict[type[errors.IndexGrpcError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PromptTooLong: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.KeyMissing: grpc.StatusCode.UNAUTHENTICATED,
    errors.KeyWrong: grpc.StatusCode.UNAUTHENTICATED,
    errors.KeyExpired: grpc.StatusCode.UNAUTHENTICATED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.MalformedHttp: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MessageTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Loading: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.UNAVAILABLE,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.EngineLost: grpc.StatusCode.UNAVAILABLE,
    errors.EngineStalled: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineTooShort: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestFailed: grpc.StatusCode.INTERNAL,
}
"""Has every error that a call raises. Of Unauthenticated and Unavailable only the subclasses are raised."""

SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that OpenTelemetry counts as errors of a server."""

MOST_VIOLATION_BYTES = 4_500
"""Violations beyond this size are left out of the details: callers refuse trailers over 8 KiB, details in base64."""

MOST_QUOTED_CHARACTERS = 64

ATTEMPTS_BEFORE = "grpc-previous-rpc-attempts"
"""The metadata in which gRPC sends how often a client has tried the call before."""
PUSHBACK = "grpc-retry-pushback-ms"
"""The trailer that tells a client's gRPC how long to wait before its next attempt.

The first refusals of a call that another server might answer have none: the client would wait even if one is idle.
"""
ATTEMPTS_WITHOUT_DELAY = 2
"""A client that has just begun to connect to several servers may make its second attempt where it made its first."""
NOT_AGAIN = "-1"
"""Sent instead of a delay that outlasts the call, if trying again is of no use.

gRPC would wait until the call's deadline, and report only that.
"""
CLIENTS_PAUSE_SECONDS = 1.0
"""A call that has less time left does not survive its client's own pause before the next attempt."""
LONGEST_DELAY_SECONDS = 30.0
"""The delay of a call that is tried again and again grows up to this."""
GROWTH = 3.0
"""The delay grows by this factor with each attempt: with a first delay of 0.1 s, five attempts take 4 s."""


def quoted(text: str) -> str:
    """Returns a caller's text as an error message may quote it: only its beginning, since trailers have little room."""
    return repr(text if len(text) <= MOST_QUOTED_CHARACTERS else f"{text[:MOST_QUOTED_CHARACTERS]}…")


async def abort(context: Context, error: errors.IndexGrpcError, request_id: str, *more: Trailer) -> NoReturn:
    """Ends the call with the error's status, its details, the request id and more trailers."""
    code, message, num_before = CODES[type(error)], message_of(error, request_id), _num_attempts_before(context)
    delay_ms = _delay_milliseconds(error, num_before)
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    details: list[Message] = [info, RequestInfo(request_id=request_id)]
    trailers: list[Trailer] = [("x-request-id", request_id), *more]
    if isinstance(error, errors.InvalidRequest):
        details.append(BadRequest(field_violations=_fitting(error)))
    if delay_ms is not None:
        details.append(_retry_info(delay_ms))
        if pushback := _pushback(error, context.time_remaining(), num_before, delay_ms):
            trailers.append((PUSHBACK, pushback))
    trailers.append(("grpc-status-details-bin", _status(code, message, details)))
    await context.abort(code, message, tuple(trailers))
    raise AssertionError("abort always raises")


def message_of(error: errors.IndexGrpcError, request_id: str) -> str:
    """Returns the message for people. Of several violations it has the first; the details hold as many as fit."""
    if isinstance(error, errors.InvalidRequest):
        return _summary(error)
    if CODES[type(error)] is grpc.StatusCode.INTERNAL:
        return f"{error}; request id {request_id}"
    return str(error)


def _fitting(error: errors.InvalidRequest) -> list[BadRequest.FieldViolation]:
    """Returns the violations that fit into the trailers."""
    fitting, size = [], 0
    for violation in error.violations:
        proto = BadRequest.FieldViolation(field=violation.field, description=violation.description)
        size += proto.ByteSize()
        if size > MOST_VIOLATION_BYTES:
            break
        fitting.append(proto)
    return fitting


def _summary(error: errors.InvalidRequest) -> str:
    """Returns the first violation and how many more there are, or at least are: the search ends at MOST_VIOLATIONS."""
    first, num_more = error.violations[0], len(error.violations) - 1
    least = "at least " if num_more + 1 >= MOST_VIOLATIONS else ""
    more = f" (and {least}{num_more} more {'violation' if num_more == 1 else 'violations'})" if num_more else ""
    return f"{first.field}: {first.description}{more}"


def _num_attempts_before(context: Context) -> int:
    """Returns how often the client has tried the call before."""
    given = dict(context.invocation_metadata() or ()).get(ATTEMPTS_BEFORE, "")
    return int(given) if isinstance(given, str) and re.fullmatch("[0-9]{1,2}", given) else 0


def _delay_milliseconds(error: errors.IndexGrpcError, num_before: int) -> int | None:
    """Returns the delay, longer with each attempt: a client that is told a delay does not lengthen its own pauses."""
    if error.retry_after_seconds is None:
        return None
    longest = max(error.retry_after_seconds, LONGEST_DELAY_SECONDS)
    return max(1, math.ceil(1000 * min(error.retry_after_seconds * GROWTH**num_before, longest)))


def _pushback(error: errors.IndexGrpcError, seconds_left: float | None, num_before: int, delay_ms: int) -> str | None:
    """Returns the value of PUSHBACK; None to leave it out, so that the client makes its own pause."""
    is_only_here = not isinstance(error, errors.Unavailable)
    if not is_only_here and num_before < ATTEMPTS_WITHOUT_DELAY:
        return None
    if seconds_left is None or delay_ms < 1000 * seconds_left:
        return str(delay_ms)
    return NOT_AGAIN if is_only_here or seconds_left < CLIENTS_PAUSE_SECONDS else None


def _retry_info(delay_ms: int) -> RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(delay_ms)
    return RetryInfo(retry_delay=delay)


def _status(code: grpc.StatusCode, message: str, details: list[Message]) -> bytes:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    serialised: bytes = status.SerializeToString()
    return serialised
