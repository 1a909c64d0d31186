"""One call over any port: what is known of it, from its arrival to its end."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from index_grpc_client.limits import GOOD_REQUEST_ID

from index_grpc.chat import AnswerStream
from index_grpc.datatypes import ChatRequest, Chunk, Finish, Usage
from index_grpc.errors import IndexGrpcError

REQUEST_ID, AUTHORIZATION = "x-request-id", "authorization"

MOST_DEADLINE_MARGIN_SECONDS = 0.2
"""An answer should be sent this long before its call's deadline, or a tenth of the time left if that is shorter."""

EARLY_SECONDS, EARLY_PART = 0.02, 0.01
"""By how much, together, a caller whose deadline passes may seem to leave before it.

The network delays one message more than another, and gRPC's C core rounds up the time that it tells the server, by as
much as a hundredth.
"""


@dataclass(frozen=True, slots=True)
class Http:
    """Facts of a call over HTTP that a call over gRPC lacks."""

    method: str
    scheme: str
    status: Callable[[IndexGrpcError | None], int | None]
    """Returns the status, sent or to be sent, of a call that ends with this error; None if the caller left before."""


@dataclass(slots=True)
class Call:
    """One call in progress."""

    method: str
    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """gRPC's metadata or HTTP's headers, names in lower case.

    Of a repeated name, gRPC's last value is used, or HTTP's first.
    """
    peer: str = ""
    """The caller's address as gRPC writes it: `ipv4:192.0.2.1:4711`, `ipv6:[2001:db8::1]:4711`, `unix:`."""
    arrival: float = field(default_factory=time.monotonic)
    """The instant at which its request had come whole; until then, when the call was opened."""
    created: float = field(default_factory=time.time)
    """The same in seconds since 1970."""
    deadline: float | None = None
    """The instant by which the answer should be sent, a little before the caller stops waiting."""
    allowed_seconds: float | None = None
    """How long the caller was ready to wait when the call arrived, if that is known."""
    model: str = ""
    """Name of the served model, if the call asks for an answer."""
    request: ChatRequest | None = None
    """The request, once it is validated."""
    is_streamed: bool = False
    """Whether the answer is sent in parts."""
    was_served: bool = False
    """Whether a part of the answer was sent, or is just being sent."""
    deltas: list[str] | None = None
    """The parts of the answer's text so far; None unless they are to be logged."""
    answer: AnswerStream | None = None
    """The answer, once the engine has taken the request."""
    finish: Finish | None = None
    """How the answer ended, if it did."""
    caller: str = ""
    """Name of its API key; empty if the server asks for none."""
    error: IndexGrpcError | None = None
    """The error that refused or broke off the call, if any."""
    service: str = ""
    """Name of the gRPC service; empty for a call over HTTP, whose method is its path."""
    http: Http | None = None
    """None for a call over gRPC."""
    is_chat: bool = False
    """Whether it asks for an answer."""
    code: str = "CANCELLED"
    """Name of its status code, once it has ended. CANCELLED stays if the handler is cancelled before the call's
    deadline, and not by the server's stop: the caller has left.
    """
    trace_id: str = ""
    """The id of its trace, if traces are sent."""

    @property
    def full_method(self) -> str:
        """The method with its service's name, or the path."""
        return f"{self.service}/{self.method}" if self.service else self.method

    @property
    def seconds(self) -> float:
        """Seconds since the call arrived."""
        return time.monotonic() - self.arrival

    @property
    def usage(self) -> Usage | None:
        """What the answer has cost, also if it was broken off; None if the engine has not taken the request."""
        return self.answer.usage if self.answer is not None else None

    @property
    def has_token(self) -> bool:
        """Whether a token of the answer has been generated."""
        return self.usage is not None and self.usage.timing is not None

    @property
    def is_out_of_time(self) -> bool:
        """Whether a caller who has just left did so because the call's deadline passed."""
        if self.allowed_seconds is None:
            return False
        return self.seconds >= (1 - EARLY_PART) * self.allowed_seconds - EARLY_SECONDS

    def arrived_whole(self) -> None:
        """Counts the call's time from now on: its request has come whole, after the call was opened."""
        self.arrival, self.created = time.monotonic(), time.time()

    def note(self, chunk: Chunk) -> None:
        """Records a part of the answer."""
        if self.deltas is not None:
            self.deltas.append(chunk.delta)
        self.finish = chunk.finish
        self.was_served = self.is_streamed

    def release(self) -> None:
        """Frees what a call that has ended may hold much of, since the call itself can outlive its handler.

        The frames in its error's traceback refer to the call, and so does the context in which the handler ran: the
        timer of an idle HTTP connection has a copy of it.
        """
        self.error, self.request, self.answer, self.deltas, self.metadata = None, None, None, None, {}


def authorization(metadata: Mapping[str, Any]) -> str:
    """Returns the header `authorization`; empty if there is none."""
    return str(metadata.get(AUTHORIZATION, ""))


def open_call(method: str, metadata: Mapping[str, Any], peer: str, seconds_left: float | None = None) -> Call:
    """Returns a call that has just arrived. `seconds_left` is how long its caller will wait, if that is known."""
    call = Call(method, request_id(metadata), metadata, peer, allowed_seconds=seconds_left)
    if seconds_left is not None:
        call.deadline = call.arrival + seconds_left - min(MOST_DEADLINE_MARGIN_SECONDS, seconds_left / 10)
    return call


def request_id(metadata: Mapping[str, Any]) -> str:
    """Returns the caller's own request id if it is a valid one, otherwise a new one."""
    given = metadata.get(REQUEST_ID, "")
    good = isinstance(given, str) and GOOD_REQUEST_ID.fullmatch(given)
    return given if good else secrets.token_hex(16)
