"""What the door and the loop tell each other: orders go in, updates come out."""

from dataclasses import dataclass
from typing import NamedTuple

from index_grpc.contract import TokenOutput, TokenRequest
from index_grpc.errors import IndexGrpcError


class Submit(NamedTuple):
    """A new request, under a number of the door's choosing: callers may give two requests the same id."""

    number: int
    request: TokenRequest


class Cancel(NamedTuple):
    """The rest of an answer is not wanted: its caller left, or found a stop string."""

    number: int


class Stop:
    """The loop is to end."""


class Report(NamedTuple):
    """What happened to one request: tokens, or the error that ended it. `ended` is true in its last report.

    Every request that was taken gets exactly one report with `ended`, a cancelled one too, as long as the loop runs.
    """

    number: int
    output: TokenOutput | None = None
    error: IndexGrpcError | None = None
    ended: bool = True


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did."""

    seconds: float
    batch_size: int
    """Sequences that it computed something for."""
    num_prompt_tokens: int
    """Tokens of prompts that it computed."""
    num_new_tokens: int
    """Tokens that it generated."""
    num_preemptions: int = 0
    """Sequences that had to stop running for it, since there were no blocks left."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What the engine holds."""

    num_running: int = 0
    num_used_tokens: int = 0
    """Cache positions of the blocks in which running sequences stand."""
    num_kept_tokens: int = 0
    """Those of blocks that are only kept for prompts that begin the same; they give way when needed."""


@dataclass(frozen=True, slots=True)
class EngineUpdate:
    """What goes to the door at once: reports of requests, what is held after them and, if there was one, the step."""

    reports: list[Report]
    occupancy: Occupancy
    step: StepReport | None = None


Order = Submit | Cancel | Stop
