"""The messages between `Engine` and the loop: orders go in, updates come out."""

from dataclasses import dataclass
from typing import NamedTuple

from index_grpc.datatypes import TokenOutput, TokenRequest
from index_grpc.errors import IndexGrpcError


class Submit(NamedTuple):
    """A new request, under a number that `Engine` gives it: callers may give two requests the same id."""

    number: int
    request: TokenRequest


class Cancel(NamedTuple):
    """The rest of an answer is not needed: its reader has left, or has found a stop string."""

    number: int


class Stop:
    """Tells the loop to end."""


class Report(NamedTuple):
    """News of one request: tokens, or the error that ended it. `ended` is true in its last report.

    As long as the loop runs, every submitted request gets exactly one report with `ended`, even a cancelled one.
    """

    number: int
    output: TokenOutput | None = None
    error: IndexGrpcError | None = None
    ended: bool = True


@dataclass(frozen=True, slots=True)
class StepReport:
    """Duration and counts of one step."""

    seconds: float
    batch_size: int
    """Sequences in the step."""
    num_prompt_tokens: int
    """Prompt tokens that it computed."""
    num_new_tokens: int
    """Tokens that it generated."""
    num_preemptions: int = 0
    """Preemptions since the last step's report, for lack of blocks or after a failure."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How many sequences run, and what the KV cache holds."""

    num_running: int = 0
    num_used_tokens: int = 0
    """Positions of the blocks that running sequences hold."""
    num_kept_tokens: int = 0
    """Positions of the blocks that only kept prefixes hold; they are freed when needed."""
    num_places: int | None = None
    """How many sequences the KV cache suffices for, while others wait since it has no room for them; otherwise None.

    Preempted ones are among them: each has begun, and leaves its place when it ends.
    """


@dataclass(frozen=True, slots=True)
class EngineUpdate:
    """One message to `Engine`: reports of requests, the occupancy after them and, if there was one, the step."""

    reports: list[Report]
    occupancy: Occupancy
    step: StepReport | None = None


Order = Submit | Cancel | Stop
