"""The options of calls. All may be left out, and None means the same: the default holds."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TypeAlias, TypedDict

from index_grpc_client.message import AnyMessage

Metadata: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """Options of every call.

    timeout: Seconds to wait, more than 0, retries included; `math.inf` waits for ever. Default: the client's. A server
        that sees the end of this time near sends the answer so far, with FinishReason.TIME_LIMIT.
    request_id: Names the call in the server's log, in the answer's `id` and in errors; 1 to 128 ASCII characters, none
        of them a space. Default: the server makes one.
    metadata: More gRPC metadata to send, keys in lower case.
    """

    timeout: float | None
    request_id: str | None
    metadata: Metadata | None


class HistoryOptions(TypedDict, total=False):
    """What comes before a prompt.

    history: The conversation before the prompt, oldest message first.
    system: Instructions, put before the history as its first message.
    """

    history: Iterable[AnyMessage] | None
    system: str | None


class SamplingOptions(TypedDict, total=False):
    """How tokens are drawn. What the defaults are, `model()` tells.

    temperature: 0 to 2; 0 takes the likeliest token always.
    top_p: Above 0 to 1; keeps the smallest set of likeliest tokens whose probabilities reach this sum. 1 is off.
    top_k: Keeps this many likeliest tokens. 0 is off.
    min_p: 0 to 1; drops tokens less likely than this share of the likeliest one's probability. 0 is off.
    repetition_penalty: Above 0 to 10, on tokens of prompt and answer. 1 is off.
    frequency_penalty: -2 to 2, for each time a token occurs in the answer. 0 is off.
    presence_penalty: -2 to 2, on tokens that occur in the answer. 0 is off.
    seed: 32 bits, unsigned. The same request with the same seed gives the same answer. Default: the server picks one.
    """

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    seed: int | None


class AnswerOptions(SamplingOptions, total=False):
    """How to answer: SamplingOptions and these.

    max_tokens: The most tokens to generate, at least 1.
    stop: A string, or up to 16, that end the answer before they appear in it.
    time_limit: Seconds, or a timedelta, after which the answer so far is sent with FinishReason.TIME_LIMIT. More than
        0, counted in microseconds, at most 315,576,000,000 seconds.
    logprobs: Whether to report the log-probability of each generated token.
    top_logprobs: How many alternatives to report for each token, 0 to 20. Needs `logprobs`.
    model: The model to insist on: another one served is a ModelNotFoundError.
    """

    max_tokens: int | None
    stop: str | Iterable[str] | None
    time_limit: float | timedelta | None
    logprobs: bool | None
    top_logprobs: int | None
    model: str | None


class RequestOptions(AnswerOptions, HistoryOptions, total=False):
    """What goes into a chat's request."""


class CountOptions(HistoryOptions, CallOptions, total=False):
    """Options of `count_tokens`: HistoryOptions and CallOptions."""


class AskOptions(AnswerOptions, CallOptions, total=False):
    """Options of a turn of a Conversation: AnswerOptions and CallOptions."""


class ChatOptions(RequestOptions, CallOptions, total=False):
    """Options of `chat` and `chat_stream`: AnswerOptions, HistoryOptions and CallOptions."""
