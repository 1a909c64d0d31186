"""The results of calls, as frozen dataclasses without protobuf."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

from grpc_health.v1 import health_pb2

from index_grpc_client.message import Message
from index_grpc_client.v1 import chat_pb2


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """The model ended its turn."""
    STOP_SEQUENCE = "stop_sequence"
    """The model generated a string of `stop`."""
    MAX_TOKENS = "max_tokens"
    """The model generated `max_tokens` tokens."""
    CONTEXT_LENGTH = "context_length"
    """Prompt and answer together fill the model's context."""
    TIME_LIMIT = "time_limit"
    """`time_limit` or the call's timeout passed or was about to."""
    UNKNOWN = "unknown"
    """A reason newer than this client."""

    @classmethod
    def from_wire(cls, reason: int) -> Self:
        """Returns the reason of a number, or UNKNOWN if this client has no name for it."""
        name = chat_pb2.FinishReason.DESCRIPTOR.values_by_number.get(reason)
        return cls(name.name.removeprefix("FINISH_REASON_").lower()) if name and reason else cls("unknown")


class HealthStatus(StrEnum):
    """The health of a server or of one of its services."""

    UNKNOWN = "UNKNOWN"
    """The server does not know it, or it is newer than this client."""
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
    """The server has no service of that name."""

    @classmethod
    def from_wire(cls, response: health_pb2.HealthCheckResponse) -> Self:
        """Returns the status of a health check's response, or UNKNOWN if this client has no name for it."""
        statuses = health_pb2.HealthCheckResponse.ServingStatus
        return cls(statuses.Name(response.status)) if response.status in statuses.values() else cls("UNKNOWN")


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of tokens of one call."""

    prompt_tokens: int
    completion_tokens: int
    """Generated tokens, including the one that ended the answer."""
    total_tokens: int
    cached_prompt_tokens: int
    """Tokens of the prompt that were not computed for this call, because another call had computed them before."""

    @classmethod
    def from_wire(cls, usage: chat_pb2.Usage) -> Self:
        """Copies the generated message."""
        return cls(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_prompt_tokens)


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one call in seconds, measured in the server from when it has received the request."""

    queue_s: float
    """Time until the server began to compute the prompt."""
    time_to_first_token_s: float
    """Time until the first token was generated."""
    total_s: float
    """Time until the last token was generated."""

    @classmethod
    def from_wire(cls, timing: chat_pb2.Timing) -> Self:
        """Copies the generated message."""
        times = (timing.queue, timing.time_to_first_token, timing.total)
        return cls(*(time.ToNanoseconds() / 1e9 for time in times))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token and its log-probability, before any sampling parameter is applied."""

    token_id: int
    token_bytes: bytes
    """The token's bytes of UTF-8. They may be only a part of a character, and are empty for a control token."""
    logprob: float
    """The natural logarithm of the probability, 0 or less."""
    top: tuple["TokenLogprob", ...] = ()
    """The `top_logprobs` likeliest tokens at this place, likeliest first."""

    @classmethod
    def from_wire(cls, token: chat_pb2.TokenLogprob) -> Self:
        """Copies the generated message."""
        top = tuple(TokenLogprob.from_wire(other) for other in token.top)
        return cls(token.token_id, token.token_bytes, token.logprob, top)


@dataclass(frozen=True, slots=True)
class Start:
    """What is known when an answer begins."""

    id: str
    """The call's id in the server's log: the `request_id`, or an id that the server made."""
    model: str
    seed: int
    """The seed that was used: the option `seed`, or the one that the server picked."""
    prompt_tokens: int
    create_time: datetime
    """When the server had received the request, in UTC."""
    fingerprint: str
    """The fingerprint of what computed the answer, as in ModelInfo; empty if the server does not say."""

    @classmethod
    def from_wire(cls, start: chat_pb2.Start) -> Self:
        """Copies the generated message."""
        create_time = start.create_time.ToDatetime(UTC)
        return cls(start.id, start.model, start.seed, start.prompt_tokens, create_time, start.fingerprint)


@dataclass(frozen=True, slots=True)
class Finish:
    """Why an answer ended, and what it cost."""

    reason: FinishReason
    stop_sequence: str
    """The string of `stop` that ended the answer; empty if the reason is another one."""
    usage: Usage
    timing: Timing

    @classmethod
    def from_wire(cls, finish: chat_pb2.Finish) -> Self:
        """Copies the generated message."""
        usage, timing = Usage.from_wire(finish.usage), Timing.from_wire(finish.timing)
        return cls(FinishReason.from_wire(finish.reason), finish.stop_sequence, usage, timing)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a streamed answer."""

    delta: str
    """Text to append to the answer; may be empty."""
    start: Start | None = None
    """Set only in the first chunk."""
    finish: Finish | None = None
    """Set only in the last chunk."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One entry for each token generated since the last chunk, if the option `logprobs` is true."""

    @classmethod
    def from_wire(cls, message: chat_pb2.ChatStreamResponse) -> Self:
        """Copies the generated message."""
        return cls(
            message.delta,
            Start.from_wire(message.start) if message.HasField("start") else None,
            Finish.from_wire(message.finish) if message.HasField("finish") else None,
            tuple(map(TokenLogprob.from_wire, message.logprobs)) if message.logprobs else (),
        )


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    stop_sequence: str
    """The string of `stop` that ended the answer; empty if the reason is another one."""
    usage: Usage
    timing: Timing
    history: tuple[Message, ...]
    """The request's history, then the prompt, then the answer. It can be the next call's `history` as it is."""
    id: str
    """The call's id in the server's log: the `request_id`, or an id that the server made."""
    model: str
    seed: int
    """The seed that was used: the option `seed`, or the one that the server picked."""
    create_time: datetime
    """When the server had received the request, in UTC."""
    fingerprint: str
    """The fingerprint of what computed the answer, as in ModelInfo; empty if the server does not say."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One entry for each generated token, if the option `logprobs` is true."""

    @classmethod
    def from_wire(cls, response: chat_pb2.ChatResponse) -> Self:
        """Copies the generated message."""
        finish = Finish.from_wire(response.finish)
        return cls(
            text=response.response,
            finish_reason=finish.reason,
            stop_sequence=finish.stop_sequence,
            usage=finish.usage,
            timing=finish.timing,
            history=tuple(map(Message.from_wire, response.history)),
            id=response.id,
            model=response.model,
            seed=response.seed,
            create_time=response.create_time.ToDatetime(UTC),
            fingerprint=response.fingerprint,
            logprobs=tuple(map(TokenLogprob.from_wire, response.logprobs)),
        )
