"""The data types that all layers share: requests, generated tokens and how answers end.

A ChatRequest holds strings and is used above the engine; a TokenRequest holds token ids and is used inside it.
Instants are seconds of `time.monotonic()`. Types that are made for each token or call are mostly NamedTuples, since a
frozen dataclass takes twice as long to make.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Role(Enum):
    """The author of a message."""

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
    """How the next token is sampled. The defaults are the service's; `protos/index/v1/chat.proto` gives the ranges."""

    temperature: float = 0.95
    top_p: float = 0.7
    top_k: int = 5
    min_p: float = 0.0
    repetition_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0


DEFAULT_MAX_TOKENS = 1024


class Deadline(NamedTuple):
    """By when an answer should be sent, and which bound says so."""

    instant: float
    seconds: float
    """How long after the request's arrival that is."""
    bound: str
    """What callers know it by: `time_limit`, if the request's field sets it, or `deadline`, if the call's own does."""


class ChatRequest(NamedTuple):
    """A caller's request after validation: every value is in its range."""

    id: str
    prompt: str
    history: tuple[Message, ...] = ()
    sampling: SamplingParams = SamplingParams()
    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    arrival: float = 0.0
    """The instant at which the call arrived."""
    deadline: Deadline | None = None
    """The earlier of the call's own deadline and the request's time limit, if there is any."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation that the model sees, with the prompt last."""
        return (*self.history, Message(Role.USER, self.prompt))


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What callers may know about the model."""

    name: str
    context_length: int
    vocab_size: int
    num_parameters: int
    device: str
    dtype: str
    """The number format it computes in."""
    fingerprint: str
    """Names everything that may change the answer of a seed; `loading/fingerprint.py` makes it."""
    quantization: str = ""
    """How its weights are stored if that loses precision: `int8`; empty otherwise."""


class TokenRequest(NamedTuple):
    """A request for the engine, in token ids."""

    id: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    logprobs: bool = False
    top_logprobs: int = 0
    arrival: float = 0.0
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """An order to copy the first positions of one block of the KV cache to another block."""

    source: int
    target: int
    num_tokens: int


class Candidate(NamedTuple):
    """A token and its log-probability under the model's own distribution."""

    token_id: int
    logprob: float


class Token(NamedTuple):
    """A generated token. `logprob` and `top` are set if the request asked for them."""

    id: int
    logprob: float | None = None
    top: tuple[Candidate, ...] = ()


class Timing(NamedTuple):
    """Seconds from the request's arrival until computing began, until the first token and until the last token."""

    queue: float
    time_to_first_token: float
    total: float


class TokenOutput(NamedTuple):
    """What one or more steps generated for a request: tokens in order and, with the last token, why it finished.

    `tokens` is empty only if the answer's time was over while its sequence was preempted, or ran again but its keys and
    values were not all computed again yet.
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
    """Why an answer ended, and what it cost."""

    reason: FinishReason
    stop_sequence: str
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    timing: Timing


class Usage(NamedTuple):
    """What an answer has cost so far, whether it has ended or not."""

    prompt_tokens: int
    completion_tokens: int
    """Tokens generated so far, also those that its reader has not taken yet."""
    cached_prompt_tokens: int
    timing: Timing | None
    """None as long as there is no token: the prompt need not have been computed yet."""


class Chunk(NamedTuple):
    """A part of an answer. The first has `start`, the last has `finish`; `delta` holds whole characters."""

    delta: str = ""
    start: Start | None = None
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()

    def __bool__(self) -> bool:
        """Whether the chunk holds anything."""
        return bool(self.delta or self.start or self.finish or self.logprobs)
