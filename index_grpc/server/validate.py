"""Validates a request's values. Every violation is reported, with field, value, limit and remedy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from google.protobuf.duration_pb2 import Duration
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.datatypes import DEFAULT_MAX_TOKENS, SamplingParams
from index_grpc.errors import InvalidRequest, PromptTooLong, Violation

MOST_STOPS = 16
MOST_STOP_BYTES = 256
MOST_TOP_LOGPROBS = 20
MOST_VIOLATIONS = 100
"""The search for violations ends at about so many."""
TURN_ROLES = frozenset({pb.ROLE_USER, pb.ROLE_ASSISTANT})
"""The roles that every message of a history may have."""
MOST_DURATION_SECONDS = 315_576_000_000
MOST_DURATION_NANOS = 999_999_999
"""The limits of google.protobuf.Duration. Protobuf itself takes any other numbers too."""


def shown(number: float) -> str:
    """Returns a number as a caller wrote it in JSON, in as few digits as tell it apart from all others."""
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included, or without `low` if `above_low` is true."""

    low: float
    high: float
    above_low: bool = False

    def holds(self, number: float) -> bool:
        """Whether the number lies in the range; NaN and infinities never do."""
        return self.low <= number <= self.high and not (self.above_low and number == self.low)

    def __str__(self) -> str:
        return f"{'above' if self.above_low else 'from'} {self.low:g} to {self.high:g}"


SAMPLING_RANGES = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, above_low=True),
    "min_p": Range(0, 1),
    "repetition_penalty": Range(0, 10, above_low=True),
    "frequency_penalty": Range(-2, 2),
    "presence_penalty": Range(-2, 2),
}


def refuse_too_many_messages(num_history: int, context_length: int) -> None:
    """Raises PromptTooLong if the turn marks of a history's messages alone fill the context.

    It needs only their number: a message fits into four bytes, and looking at all messages that one request can hold
    would take seconds.
    """
    at_least = num_history + 2  # a mark for each message, for the prompt and for the answer
    if at_least >= context_length:
        raise PromptTooLong(at_least, context_length, at_least=True)


class Violations:
    """Collects violations; leaving its `with` block raises InvalidRequest if there are any."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None and self._found:
            raise InvalidRequest(*self._found)

    def of_conversation(self, prompt: str, history: Sequence[pb.Message]) -> None:
        """Checks the prompt and the messages before it."""
        if not prompt:
            self._add("prompt", "is empty; send at least one character")
        # A history may have tens of thousands of messages, so those that are right must cost little.
        others = ((index, message.role) for index, message in enumerate(history) if message.role not in TURN_ROLES)
        for index, role in others:
            if len(self._found) >= MOST_VIOLATIONS:
                return
            self._of_role(f"history[{index}].role", role, first=index == 0)

    def of_sampling(self, sampling: pb.SamplingParams) -> None:
        """Checks every sampling parameter that is set."""
        for field, value in sampling.ListFields():
            allowed = SAMPLING_RANGES.get(field.name)
            if allowed is not None and not allowed.holds(value):
                default = getattr(SamplingParams(), field.name)
                self._add(f"sampling.{field.name}", f"is {shown(value)}; allowed is {allowed}; unset means {default:g}")

    def of_limits(self, request: pb.ChatRequest) -> None:
        """Checks max_tokens, the stop strings, top_logprobs and time_limit."""
        if request.HasField("max_tokens") and request.max_tokens == 0:
            self._add("max_tokens", f"is 0; allowed is 1 or more; unset means {DEFAULT_MAX_TOKENS}")
        self._of_stops(request.stop)
        self._of_top_logprobs(request)
        if request.HasField("time_limit"):
            self._of_time_limit(request.time_limit)

    def _of_time_limit(self, limit: Duration) -> None:
        seconds, nanos = limit.seconds, limit.nanos
        of_one_sign = seconds * nanos >= 0
        if not (of_one_sign and abs(seconds) <= MOST_DURATION_SECONDS and abs(nanos) <= MOST_DURATION_NANOS):
            allowed = f"allowed are 0 to {MOST_DURATION_SECONDS} s plus 0 to {MOST_DURATION_NANOS} ns"
            told = f"is {seconds} s plus {nanos} ns; {allowed}; send a valid google.protobuf.Duration"
            self._add("time_limit", told)
        elif seconds <= 0 and nanos <= 0:
            given = shown(seconds + nanos / 1e9)
            self._add("time_limit", f"is {given} s; allowed is more than 0 s; unset means no limit of its own")

    def _of_role(self, field: str, role: int, first: bool) -> None:
        names = "ROLE_SYSTEM (first message only), ROLE_USER, ROLE_ASSISTANT"
        if role == pb.ROLE_UNSPECIFIED:
            self._add(field, f"is unset; set one of {names}")
        elif role not in pb.Role.values():
            self._add(field, f"is the unknown number {role}; set one of {names}")
        elif role == pb.ROLE_SYSTEM and not first:
            self._add(field, "is ROLE_SYSTEM; allowed only in history[0]; move it there")

    def _of_stops(self, stops: Sequence[str]) -> None:
        if len(stops) > MOST_STOPS:
            self._add("stop", f"has {len(stops)} strings; allowed are {MOST_STOPS}; leave some out")
        for index, stop in enumerate(stops[:MOST_STOPS]):
            num_bytes = len(stop.encode())
            if not stop:
                self._add(f"stop[{index}]", f"is empty; allowed are 1 to {MOST_STOP_BYTES} bytes; leave it out")
            elif num_bytes > MOST_STOP_BYTES:
                self._add(f"stop[{index}]", f"has {num_bytes} bytes; allowed are 1 to {MOST_STOP_BYTES}; shorten it")

    def _of_top_logprobs(self, request: pb.ChatRequest) -> None:
        if request.top_logprobs > MOST_TOP_LOGPROBS:
            self._add("top_logprobs", f"is {request.top_logprobs}; allowed is 0 to {MOST_TOP_LOGPROBS}; ask for fewer")
        elif request.top_logprobs and not request.logprobs:
            self._add("top_logprobs", f"is {request.top_logprobs} while logprobs is false; set logprobs to true")

    def _add(self, field: str, description: str) -> None:
        self._found.append(Violation(field, description))
