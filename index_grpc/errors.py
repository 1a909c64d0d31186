"""Everything that can go wrong by name. `server/status.py` holds the table from here to gRPC status codes."""

from dataclasses import dataclass

ELSEWHERE_OR_LATER = "call another server, or come back"
"""What helps against a refusal that passes by itself."""


class IndexGrpcError(Exception):
    """The family. `reason` is the stable word for programs, the message the sentence for people.

    `metadata` holds values of the message that a program may want, so that it need not read sentences.
    """

    reason = "UNKNOWN"
    retry_after_seconds: float | None = None
    """When it may be tried again; None if that would change nothing."""

    def __init__(self, message: str, **metadata: str | int) -> None:
        super().__init__(message)
        self.metadata = {name: str(value) for name, value in metadata.items()}


class StartupError(IndexGrpcError):
    """The service cannot start: a bad setting, a missing model, a port in use. Says what to do about it."""

    reason = "STARTUP"


class DeviceLost(Exception):
    """The device computes nothing any more; only another process can use it again. Ends the engine."""


class CheckpointError(StartupError):
    """A checkpoint that is missing, incomplete or of a kind that is not served."""

    reason = "CHECKPOINT"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: the field's path and a sentence with value, limit and remedy."""

    field: str
    description: str


class InvalidRequest(IndexGrpcError):
    """A request with values out of range; lists all of them."""

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
    """More bytes than the server takes. gRPC itself sees to that for its own messages."""

    reason = "MESSAGE_TOO_LARGE"


class Unauthenticated(IndexGrpcError):
    """The caller is not known."""

    reason = "UNAUTHENTICATED"


class KeyMissing(Unauthenticated):
    """The call brings no API key."""

    reason = "KEY_MISSING"


class KeyWrong(Unauthenticated):
    """The call's API key is none of the server's."""

    reason = "KEY_WRONG"


class KeyExpired(Unauthenticated):
    """The time of the call's API key is over."""

    reason = "KEY_EXPIRED"


class RateLimited(IndexGrpcError):
    """The caller's key allows no more until `retry_after_seconds` have passed."""

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
    """All places to run and to wait are taken."""

    reason = "OVERLOADED"


class Draining(Unavailable):
    """The server is about to stop and completes only what it has taken."""

    reason = "DRAINING"


class EngineLost(Unavailable):
    """The engine broke and computes nothing any more."""

    reason = "ENGINE_LOST"


class EngineStalled(Unavailable):
    """The engine's step takes conspicuously long; it may go on or count as lost soon."""

    reason = "ENGINE_STALLED"


class DeadlineTooShort(IndexGrpcError):
    """The request's time is over, or will be, before its first token."""

    reason = "DEADLINE_TOO_SHORT"


class RequestFailed(IndexGrpcError):
    """Computing this one request failed; others go on."""

    reason = "REQUEST_FAILED"
