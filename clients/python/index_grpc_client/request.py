"""Builds calls. Only this module turns options into messages of the contract and arguments of a call."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar, Unpack

from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2

from index_grpc_client.limits import (
    allowed_header,
    allowed_metadata,
    allowed_number,
    allowed_request_id,
    allowed_time_limit,
    allowed_timeout,
    require_uint32,
    require_utf8,
    several,
)
from index_grpc_client.message import AnyMessage, Message, Role, messages, require_known_roles
from index_grpc_client.message import system as system_message
from index_grpc_client.options import CallOptions, Metadata, RequestOptions, SamplingOptions
from index_grpc_client.v1 import chat_pb2

QUICK_TIMEOUT = 30.0
"""The default timeout in seconds of calls that generate nothing, unless the client's timeout is shorter."""

SAMPLING = [field.name for field in chat_pb2.SamplingParams.DESCRIPTOR.fields]
WHOLE_NUMBERS = {"top_k", "seed"}

Request = TypeVar("Request")


@dataclass(frozen=True)
class Call(Generic[Request]):
    """A request, the other arguments of a stub's method, and the caller's request id if there is one."""

    request: Request
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...]
    request_id: str


def given(**values: object) -> dict[str, object]:
    """Returns the values that are not None, by name."""
    return {name: value for name, value in values.items() if value is not None}


def sampling_params(sampling: SamplingOptions) -> chat_pb2.SamplingParams:
    """Returns the options as a message of the contract.

    Raises:
        TypeError: a name is unknown, or a value is not a number.
        ValueError: a whole number does not fit into 32 bits.
    """
    values = given(**sampling)
    if unknown := values.keys() - SAMPLING:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    require_uint32({name: values.get(name) for name in sorted(WHOLE_NUMBERS)})
    for name in values.keys() - WHOLE_NUMBERS:
        values[name] = allowed_number(values[name], name)
    return chat_pb2.SamplingParams(**values)  # type: ignore[arg-type] # all are numbers


def seconds(limit: float | timedelta) -> Duration:
    """Returns the time limit as a Duration. Raises ValueError if it is out of range."""
    duration = Duration()
    duration.FromTimedelta(allowed_time_limit(limit))
    return duration


def full_history(history: Iterable[AnyMessage] | None, system: str | None) -> tuple[Message, ...]:
    """Returns the history, with the instructions as its first message if they are given.

    Raises:
        ValueError: `system` is given although the history begins with a system message, a text is not UTF-8, or a role
            is unknown.
    """
    turns = messages(() if history is None else history)
    require_utf8(given(system=system))
    require_utf8({f"history[{place}].content": turn.content for place, turn in enumerate(turns)})
    require_known_roles(turns)
    if system is None:
        return turns
    if turns and turns[0].role is Role.SYSTEM:
        raise ValueError("system is given, and the history begins with a system message: leave one of them out")
    return (system_message(system), *turns)


def chat_request(
    prompt: str,
    *,
    history: Iterable[AnyMessage] | None = None,
    system: str | None = None,
    max_tokens: int | None = None,
    stop: str | Iterable[str] | None = None,
    time_limit: float | timedelta | None = None,
    logprobs: bool | None = None,
    top_logprobs: int | None = None,
    model: str | None = None,
    **sampling: Unpack[SamplingOptions],
) -> chat_pb2.ChatRequest:
    """Returns the request of Chat and ChatStream. Options that are None stay unset: to the contract that is not 0."""
    stops = several(() if stop is None else stop, "stop")
    require_utf8({"prompt": prompt} | given(model=model) | {f"stop[{place}]": text for place, text in enumerate(stops)})
    require_uint32({"max_tokens": max_tokens, "top_logprobs": top_logprobs})
    if not isinstance(logprobs, bool | None):
        raise TypeError(f"logprobs is {logprobs!r}; allowed are True and False")
    return chat_pb2.ChatRequest(
        prompt=prompt,
        history=[turn.to_wire() for turn in full_history(history, system)],
        sampling=sampling_params(sampling),
        max_tokens=max_tokens,
        stop=stops,
        time_limit=None if time_limit is None else seconds(time_limit),
        logprobs=bool(logprobs),
        top_logprobs=top_logprobs,
        model=model or "",
    )


class CallBuilder:
    """Builds the calls of one client, with the client's defaults, until it is closed."""

    def __init__(self, timeout: float, api_key: str | None) -> None:
        """`timeout` is in seconds. Raises ValueError or TypeError if it or the key is invalid."""
        self.timeout = allowed_timeout(timeout)
        self.api_key = None if api_key is None else allowed_header(api_key, "api_key")
        if api_key == "":
            raise ValueError("api_key is empty; leave it out if the server asks for none")
        self.is_closed = False

    def close(self) -> None:
        """Refuses all further calls with a ValueError."""
        self.is_closed = True

    def chat(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        metadata: Metadata | None = None,
        **options: Unpack[RequestOptions],
    ) -> Call[chat_pb2.ChatRequest]:
        """Returns a call of Chat or ChatStream."""
        call = CallOptions(timeout=timeout, request_id=request_id, metadata=metadata)
        return self._call(chat_request(prompt, **options), self.timeout, **call)

    def count_tokens(
        self,
        prompt: str,
        *,
        history: Iterable[AnyMessage] | None = None,
        system: str | None = None,
        model: str | None = None,
        **call: Unpack[CallOptions],
    ) -> Call[chat_pb2.CountTokensRequest]:
        """Returns a call of CountTokens."""
        require_utf8({"prompt": prompt} | given(model=model))
        turns = [turn.to_wire() for turn in full_history(history, system)]
        return self._quick(chat_pb2.CountTokensRequest(prompt=prompt, history=turns, model=model or ""), **call)

    def model(self, **call: Unpack[CallOptions]) -> Call[chat_pb2.GetModelRequest]:
        """Returns a call of GetModel."""
        return self._quick(chat_pb2.GetModelRequest(), **call)

    def health(self, service: str, **call: Unpack[CallOptions]) -> Call[health_pb2.HealthCheckRequest]:
        """Returns a call of the standard health service's Check."""
        require_utf8({"service": service})
        return self._quick(health_pb2.HealthCheckRequest(service=service), **call)

    def _quick(self, request: Request, **call: Unpack[CallOptions]) -> Call[Request]:
        return self._call(request, min(self.timeout, QUICK_TIMEOUT), **call)

    def _call(
        self,
        request: Request,
        default_timeout: float,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        metadata: Metadata | None = None,
    ) -> Call[Request]:
        if self.is_closed:
            raise ValueError("the client is closed; make another one")
        headers = allowed_metadata(() if metadata is None else metadata)
        if self.api_key is not None:
            headers.append(("authorization", f"Bearer {self.api_key}"))
        if request_id is not None:
            headers.append(("x-request-id", allowed_request_id(request_id)))
        limit = allowed_timeout(default_timeout if timeout is None else timeout)
        return Call(request, None if math.isinf(limit) else limit, tuple(headers), request_id or "")
