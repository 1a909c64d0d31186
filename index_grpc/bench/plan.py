"""What one run is to measure."""

import math
from dataclasses import dataclass
from enum import StrEnum

REQUESTS_PER_WORKER = 4
FEWEST_REQUESTS = 8
FEWEST_CONVERSATIONS = 2
OPEN_LOOP_WARMUP = 4


class Mode(StrEnum):
    """Who decides when the next request is sent."""

    CLOSED = "closed"
    """So many workers; each sends its next request when its last one is answered."""
    OPEN = "open"
    """So many requests a second, at random instants, however many are still open."""
    CONVERSATIONS = "conversations"
    """So many workers; each sends the next turn of a conversation when the last one is answered."""


@dataclass(frozen=True)
class Plan:
    """One measurement for each level, one after another; levels are numbers of workers, or requests a second."""

    mode: Mode
    levels: tuple[float, ...]
    num_requests: int | None = None
    """For each level; None is a number that fits it."""
    duration_s: float | None = None
    """Open loop: how long requests arrive; None leaves it to their number."""
    num_turns: int = 1
    """Of each conversation."""
    prompt_tokens: int = 64
    max_tokens: int = 64
    temperature: float | None = None
    seed: int = 0
    num_warmup: int | None = None
    """Requests before each level that are not counted; None is one for each worker."""

    def num_workers(self, level: float) -> int:
        """Requests that are open at once, at most; for the open loop those of its warm-up."""
        return OPEN_LOOP_WARMUP if self.mode is Mode.OPEN else int(level)

    def warmup(self, level: float) -> int:
        """Requests to send before the level."""
        return self.num_workers(level) if self.num_warmup is None else self.num_warmup

    def requests(self, level: float) -> int:
        """Requests of a level."""
        return self.num_requests or max(FEWEST_REQUESTS, REQUESTS_PER_WORKER * self.num_workers(level))

    def conversations(self, level: float) -> int:
        """Conversations of a level: as many as hold the number of requests, or one for each worker."""
        if self.num_requests is not None:
            return math.ceil(self.num_requests / self.num_turns)
        return max(FEWEST_CONVERSATIONS, self.num_workers(level))

    def label(self, level: float) -> str:
        """What a level is called."""
        return f"{level:g} requests/s" if self.mode is Mode.OPEN else f"concurrency {level:g}"
