"""The exceptions of the service. `server/status.py` maps them to gRPC status codes."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

ELSEWHERE_OR_LATER = "call another server, or come back"
"""The remedy in messages about a refusal that is only temporary."""


def in_seconds(seconds: float) -> str:
    """Returns a time for a message: in hundredths of a second, or in two digits if it is shorter than one of them."""
    if seconds >= 0.01:
        return f"{seconds:.2f} s"
    return f"{Decimal(f'{seconds:.2g}'):f} s"  # 0.00 would be no time at all, and a float would get an exponent


class IndexGrpcError(Exception):
    """The base class. `reason` is a stable identifier for programs; the message is a sentence for people.

    `metadata` holds values of the message that a program may want, so that it need not read sentences.
    """

    reason = "UNKNOWN"
    retry_after_seconds: float | None = None
    """After how long the request may be tried again; None if trying again would change nothing."""

    def __init__(self, message: str, **metadata: str | int) -> None:
        super().__init__(message)
        self.metadata = {name: str(value) for name, value in metadata.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Has errors of every class survive pickling: they pass from the engine's process to the server."""
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[IndexGrpcError], args: tuple[object, ...], attributes: dict[str, object]) -> IndexGrpcError:
    """Returns an unpickled error. Its `__init__` is not called, since each class has parameters of its own."""
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


class StartupError(IndexGrpcError):
    """The service cannot start (bad setting, missing model, port in use) or go on. The message gives the remedy."""

    reason = "STARTUP"


class DeviceLost(Exception):
    """The device has failed, and only another process can use it again. Ends the engine."""


class CheckpointError(StartupError):
    """A checkpoint that is missing, incomplete or of a kind that is not served."""

    reason = "CHECKPOINT"


@dataclass(frozen=True, slots=True)
class Violation:
    """One mistake in a request: the field's path, and a sentence with value, limit and remedy."""

    field: str
    description: str


class InvalidRequest(IndexGrpcError):
    """A request that is not valid. Lists all violations."""

    reason = "INVALID_REQUEST"

    def __init__(self, *violations: Violation, **metadata: str | int) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations), **metadata)
        self.violations = violations


class PromptTooLong(InvalidRequest):
    """A prompt that leaves no room in the context for an answer."""

    reason = "PROMPT_TOO_LONG"

    def __init__(self, num_tokens: int, context_length: int, *, at_least: bool = False) -> None:
        """`at_least`: the prompt was not counted to its end, and may take more."""
        remedy = "shorten the prompt or drop the oldest messages of the history"
        count, name = (f"at least {num_tokens}", "min_prompt_tokens") if at_least else (num_tokens, "prompt_tokens")
        super().__init__(
            Violation(
                "prompt",
                f"takes {count} tokens with its history; the context holds {context_length} tokens and an answer "
                f"needs at least one of them; {remedy}",
            ),
            **{name: num_tokens, "context_length": context_length},
        )


class ModelNotFound(IndexGrpcError):
    """A request for a model that is not the served one."""

    reason = "MODEL_NOT_FOUND"


class MessageTooLarge(IndexGrpcError):
    """A body of HTTP with more bytes than the server takes. gRPC itself refuses such messages."""

    reason = "MESSAGE_TOO_LARGE"


class MalformedHttp(IndexGrpcError):
    """A request over HTTP whose body is not valid HTTP, as a chunk without its length."""

    reason = "MALFORMED_HTTP"


class Unauthenticated(IndexGrpcError):
    """The caller could not be identified."""

    reason = "UNAUTHENTICATED"


class KeyMissing(Unauthenticated):
    """The call has no API key."""

    reason = "KEY_MISSING"


class KeyWrong(Unauthenticated):
    """The call's API key is not one of the server's."""

    reason = "KEY_WRONG"


class KeyExpired(Unauthenticated):
    """The call's API key has expired."""

    reason = "KEY_EXPIRED"


class RateLimited(IndexGrpcError):
    """The caller's key allows no more calls until `retry_after_seconds` have passed."""

    reason = "RATE_LIMITED"

    def __init__(self, message: str, retry_after_seconds: float, **metadata: str | int) -> None:
        super().__init__(message, **metadata)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(IndexGrpcError):
    """The request cannot be taken now and may be tried again after `retry_after_seconds`, here or elsewhere."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_seconds: float = 1.0, **metadata: str | int) -> None:
        super().__init__(message, **metadata)
        self.retry_after_seconds = retry_after_seconds


class Loading(Unavailable):
    """The model is still being loaded."""

    reason = "LOADING"


class Overloaded(Unavailable):
    """The engine and its queue are full, or so full that the request's time would be over before its turn."""

    reason = "OVERLOADED"


class Draining(Unavailable):
    """The server is about to stop and completes only the calls that it has already taken."""

    reason = "DRAINING"


class EngineLost(Unavailable):
    """The engine broke and computes nothing any more."""

    reason = "ENGINE_LOST"


class EngineStalled(Unavailable):
    """The engine's step takes unusually long; it may still end, or the engine soon counts as lost."""

    reason = "ENGINE_STALLED"


class DeadlineTooShort(IndexGrpcError):
    """The request's deadline has passed before its first token."""

    reason = "DEADLINE_TOO_SHORT"


class RequestFailed(IndexGrpcError):
    """This one request failed inside the server; other requests are not affected."""

    reason = "REQUEST_FAILED"
