"""Reads the details that travel with a failed call's status."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """The field's path: `sampling.top_p`, `history[3].role`."""
    description: str
    """The value, the limit and the remedy."""


@dataclass(frozen=True, slots=True)
class StatusDetails:
    """What a status carries beside its code and text; empty where the server sent nothing."""

    reason: str = ""
    """A stable word for programs, from google.rpc.ErrorInfo."""
    violations: tuple[Violation, ...] = ()
    """From google.rpc.BadRequest."""
    retry_after: float | None = None
    """Seconds, from google.rpc.RetryInfo."""
    request_id: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    """From google.rpc.ErrorInfo."""


def status_details(trailers: Iterable[tuple[str, str | bytes]]) -> StatusDetails:
    """Reads the trailing metadata of a failed call.

    grpcio-status would do the same for synchronous calls, but raises TypeError for asyncio ones.
    """
    headers = dict(trailers)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    packed = headers.get(DETAILS_KEY)
    if isinstance(packed, bytes):
        # Details that cannot be read must not hide the failure they belong to.
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
