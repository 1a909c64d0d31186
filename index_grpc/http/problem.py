"""Errors as HTTP responses: one table of statuses, and two forms of the body."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc

from index_grpc import errors
from index_grpc.http.clock import clock_time
from index_grpc.server.status import CODES, message_of

OPENAI = "/v1"
"""All paths of OpenAI's API begin with this."""

UNAUTHORIZED, TOO_LARGE = 401, 413

STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: UNAUTHORIZED,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""HTTP's status for each of gRPC's, as Google's APIs map them."""

OPENAI_TYPES = {UNAUTHORIZED: "authentication_error", 429: "rate_limit_error"}
"""OpenAI's type of error for a status; other 4xx are an invalid_request_error, the rest a server_error."""
OPENAI_CODES = {"PROMPT_TOO_LONG": "context_length_exceeded", "KEY_WRONG": "invalid_api_key"}
"""OpenAI's codes that programs look for; for other reasons the code is ours in lower case."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a caller is told of it."""

    status: int
    message: str
    reason: str
    field: str | None = None
    """The first field that is wrong."""
    retry_after_seconds: float | None = None
    metadata: Mapping[str, str] | None = None
    """Values of the message, for programs to read."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers on how or when to try again: whole seconds by the standard, milliseconds for OpenAI's clients."""
        seconds = self.retry_after_seconds
        if seconds is None:
            return {"www-authenticate": "Bearer"} if self.status == UNAUTHORIZED else {}
        return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(1, round(seconds * 1000)))}


ErrorForm = Callable[[Problem], dict[str, object]]
"""Returns the JSON object that tells a problem, in the form that a path's callers know."""


def error_form(path: str) -> ErrorForm:
    """Returns the form that a path's callers know."""
    return openai_error if path.startswith(f"{OPENAI}/") else tutorial_error


def problem_of(error: errors.IndexGrpcError, request_id: str) -> Problem:
    """Returns the error with gRPC's message for it, but with all violations of an invalid request."""
    too_large = isinstance(error, errors.MessageTooLarge)
    return Problem(
        status=TOO_LARGE if too_large else STATUSES[CODES[type(error)]],
        message=_all_of(error) if isinstance(error, errors.InvalidRequest) else message_of(error, request_id),
        reason=error.reason,
        field=_field(error),
        retry_after_seconds=error.retry_after_seconds,
        metadata=error.metadata,
    )


def _all_of(error: errors.InvalidRequest) -> str:
    """Returns all violations: a body has room for them, and no other place."""
    return "; ".join(f"{violation.field}: {violation.description}" for violation in error.violations)


def _field(error: errors.IndexGrpcError) -> str | None:
    if isinstance(error, errors.InvalidRequest):
        return error.violations[0].field
    return "model" if isinstance(error, errors.ModelNotFound) else None


def openai_error(problem: Problem) -> dict[str, object]:
    """Returns OpenAI's error object."""
    kind = OPENAI_TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    code = OPENAI_CODES.get(problem.reason, problem.reason.lower())
    told: dict[str, object] = {"message": problem.message, "type": kind, "param": problem.field, "code": code}
    return {"error": told | _metadata(problem)}


def tutorial_error(problem: Problem) -> dict[str, object]:
    """Returns an error in the style of the tutorial's answer; the tutorial itself defines none."""
    told: dict[str, object] = {"status": problem.status, "message": problem.message, "reason": problem.reason}
    return told | {"time": clock_time()} | _metadata(problem)


def _metadata(problem: Problem) -> dict[str, object]:
    """Returns `metadata` as one more member of the form, if there is any: clients ignore members they do not know."""
    return {"metadata": problem.metadata} if problem.metadata else {}
