"""The options of calls. Each may be left out, which means its default. None means the same."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TypeAlias, TypedDict

from index_grpc_client.message import AnyMessage

Metadata: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """Options of every call.

    timeout: Seconds to wait, more than 0, retries included; `math.inf` waits for ever, other timeouts are cut to 365
        days. The server ends an answer before it passes, if its steps are short enough, as the answer is then, with
        FinishReason.TIME_LIMIT. Default: the client's timeout, but at most 30 seconds for calls that generate nothing.
    request_id: The call's id in the server's log, in the answer's `id` and in errors. 1 to 128 ASCII characters without
        spaces. Default: the server makes one.
    metadata: More gRPC metadata to send, with keys in lower case.
    """

    timeout: float | None
    request_id: str | None
    metadata: Metadata | None


class HistoryOptions(TypedDict, total=False):
    """The conversation before a prompt.

    history: The conversation before the prompt, oldest message first.
    system: Instructions for the model. They become the first message of the history, which must not have any already.
    """

    history: Iterable[AnyMessage] | None
    system: str | None


class SamplingOptions(TypedDict, total=False):
    """How tokens are drawn. `model()` returns the defaults.

    temperature: 0 to 2. With 0 the likeliest token is always taken.
    top_p: Above 0 to 1. Keeps the smallest set of the likeliest tokens whose probabilities add up to at least this. 1
        keeps all tokens.
    top_k: Keeps this many of the likeliest tokens. 0 keeps all tokens.
    min_p: 0 to 1. Drops tokens whose probability is less than this times that of the likeliest token. 0 drops none.
    repetition_penalty: Above 0 to 10. Applies to tokens that occur in the prompt, its history or the answer; above 1
        makes them less likely. 1 changes nothing.
    frequency_penalty: -2 to 2. Subtracted from a token's logit for each time that the token occurs in the answer.
    presence_penalty: -2 to 2. Subtracted once from the logit of each token that occurs in the answer.
    seed: 0 to 4294967295. The same request with the same seed gives the same answer on servers with the same
        fingerprint. Default: the server picks one.
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
    """How to answer: SamplingOptions and the following.

    max_tokens: The most tokens to generate, at least 1.
    stop: A string, or up to 16 strings, each of 1 to 256 bytes in UTF-8. The answer ends before the first of them.
    time_limit: Seconds, or a timedelta, after which the answer ends as it is then, with FinishReason.TIME_LIMIT. More
        than 0 and at most 315,576,000,000 seconds. It is sent in microseconds, at least one.
    logprobs: Whether to report the log-probability of each generated token.
    top_logprobs: How many of the likeliest tokens to report at each place, 0 to 20. Needs `logprobs`.
    model: The name of the model that must answer. If another one is served, ModelNotFoundError is raised.
    """

    max_tokens: int | None
    stop: str | Iterable[str] | None
    time_limit: float | timedelta | None
    logprobs: bool | None
    top_logprobs: int | None
    model: str | None


class RequestOptions(AnswerOptions, HistoryOptions, total=False):
    """The options that are part of a chat request: AnswerOptions and HistoryOptions."""


class CountOptions(HistoryOptions, CallOptions, total=False):
    """Options of `count_tokens`: HistoryOptions, CallOptions and the following.

    model: The name of the model that must count. If another one is served, ModelNotFoundError is raised.
    """

    model: str | None


class AskOptions(AnswerOptions, CallOptions, total=False):
    """Options of a turn of a Conversation: AnswerOptions and CallOptions."""


class ChatOptions(RequestOptions, CallOptions, total=False):
    """Options of `chat` and `chat_stream`: AnswerOptions, HistoryOptions and CallOptions."""
