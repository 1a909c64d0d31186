"""The nouns that the floors share: what is asked, what is generated, how it ends.

A ChatRequest speaks in strings and lives above the engine; a TokenRequest speaks in token ids and lives inside it.
Instants are seconds of `time.monotonic()`. What is made for each token or call is mostly a NamedTuple, since a frozen
dataclass takes twice as long to make.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Role(Enum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    STOP_SEQUENCE = "stop_sequence"
    MAX_TOKENS = "max_tokens"
    CONTEXT_LENGTH = "context_length"
    TIME_LIMIT = "time_limit"


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn; the defaults are the service's. Ranges stand in `protos/index/v1/chat.proto`."""

    temperature: float = 0.95
    top_p: float = 0.7
    top_k: int = 5
    min_p: float = 0.0
    repetition_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0


DEFAULT_MAX_TOKENS = 1024


class ChatRequest(NamedTuple):
    """What a caller asked, checked: every value lies in its range."""

    id: str
    prompt: str
    history: tuple[Message, ...] = ()
    sampling: SamplingParams = SamplingParams()
    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    arrival: float = 0.0
    """Instant the call arrived."""
    deadline: float | None = None
    """Instant by which the answer should have left; the earlier of the call's deadline and the time limit."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation as the model is to see it, the prompt last."""
        return (*self.history, Message(Role.USER, self.prompt))


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model as callers may know it."""

    name: str
    context_length: int
    vocab_size: int
    num_parameters: int
    device: str
    dtype: str
    """The number format it computes in."""
    quantization: str = ""
    """How its weights are stored if that loses something: `int8`."""
    default_sampling: SamplingParams = SamplingParams()
    default_max_tokens: int = DEFAULT_MAX_TOKENS


class TokenRequest(NamedTuple):
    """A request as the engine takes it."""

    id: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    logprobs: bool = False
    top_logprobs: int = 0
    arrival: float = 0.0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """The first positions of a block of keys and values that are to stand in another block too."""

    source: int
    target: int
    num_tokens: int


class Candidate(NamedTuple):
    """A token and its log-probability under the model's own distribution."""

    token_id: int
    logprob: float


class Token(NamedTuple):
    """A generated token. `logprob` and `top` are there if the request asked for them."""

    id: int
    logprob: float | None = None
    top: tuple[Candidate, ...] = ()


class Timing(NamedTuple):
    """Seconds from arrival until computing began, until the first token and until the last."""

    queue: float
    time_to_first_token: float
    total: float


class TokenOutput(NamedTuple):
    """What one or more steps brought for a request: tokens in order and, with the last of them, why it finished.

    Without tokens only if an answer's time was over while it was preempted.
    """

    tokens: tuple[Token, ...]
    timing: Timing
    reason: FinishReason | None = None
    cached_prompt_tokens: int = 0


class TokenLogprob(NamedTuple):
    """A generated token's log-probability, with its bytes and its likeliest alternatives."""

    token_id: int
    token_bytes: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class Start(NamedTuple):
    """What is known when an answer begins."""

    seed: int
    prompt_tokens: int


class Finish(NamedTuple):
    """Why and with what cost an answer ended."""

    reason: FinishReason
    stop_sequence: str
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    timing: Timing


class Chunk(NamedTuple):
    """A part of an answer: `start` in the first, `finish` in the last, whole characters in `delta`."""

    delta: str = ""
    start: Start | None = None
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()

    def __bool__(self) -> bool:
        """Whether it carries anything."""
        return bool(self.delta or self.start or self.finish or self.logprobs)
