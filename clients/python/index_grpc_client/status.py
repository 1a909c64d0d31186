"""Reads the details of a failed call's status."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True, slots=True)
class Violation:
    """One mistake in a request."""

    field: str
    """The field's path: `sampling.top_p`, `history[3].role`."""
    description: str
    """A sentence with the value, the limit and the remedy."""


@dataclass(frozen=True, slots=True)
class StatusDetails:
    """The details of a status besides its code and text. Those that the server did not send are empty."""

    reason: str = ""
    """A stable identifier for programs, from google.rpc.ErrorInfo."""
    violations: tuple[Violation, ...] = ()
    """From google.rpc.BadRequest."""
    retry_after: float | None = None
    """Seconds, from google.rpc.RetryInfo."""
    request_id: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    """From google.rpc.ErrorInfo."""


def status_details(trailers: Iterable[tuple[str, str | bytes]]) -> StatusDetails:
    """Returns the details that the trailers of a failed call hold.

    grpcio-status would do the same for synchronous calls, but raises TypeError for asyncio ones.
    """
    headers = dict(trailers)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    packed = headers.get(DETAILS_KEY)
    if isinstance(packed, bytes):
        # If the details cannot be read, the failure itself must still be reported.
        with suppress(DecodeError):
            for detail in status_pb2.Status.FromString(packed).details:
                any(detail.Unpack(known) for known in (info, bad_request, retry, request))
    return StatusDetails(
        reason=info.reason,
        violations=tuple(Violation(found.field, found.description) for found in bad_request.field_violations),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
        request_id=request.request_id or str(headers.get(REQUEST_ID_KEY, "")),
        metadata=dict(info.metadata),
    )
