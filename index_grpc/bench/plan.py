"""The plan of one run: what it measures."""

import math
from dataclasses import dataclass
from enum import StrEnum

REQUESTS_PER_WORKER = 4
FEWEST_REQUESTS = 8
FEWEST_CONVERSATIONS = 2
OPEN_LOOP_WARMUP = 4


class Mode(StrEnum):
    """What decides when the next request is sent."""

    CLOSED = "closed"
    """A number of workers, each of which sends its next request when its last one is answered."""
    OPEN = "open"
    """A number of requests a second, at random instants, however many are still open."""
    CONVERSATIONS = "conversations"
    """A number of workers, each of which sends the next turn of a conversation when the last one is answered."""


@dataclass(frozen=True)
class Plan:
    """One measurement for each level, one after another; levels are numbers of workers, or requests a second."""

    mode: Mode
    levels: tuple[float, ...]
    num_requests: int | None = None
    """Requests of each level; None takes a number that fits the level."""
    duration_s: float | None = None
    """Open loop: for how long requests arrive; None: until there are enough of them."""
    num_turns: int = 1
    """Turns of each conversation."""
    prompt_tokens: int = 64
    max_tokens: int = 64
    temperature: float | None = None
    seed: int = 0
    num_warmup: int | None = None
    """Requests before each level that are not counted; None takes `num_workers`."""

    def num_workers(self, level: float) -> int:
        """Returns the most requests that are open at once; for the open loop, those of its warm-up."""
        return OPEN_LOOP_WARMUP if self.mode is Mode.OPEN else int(level)

    def warmup(self, level: float) -> int:
        """Returns how many requests to send before the level."""
        return self.num_workers(level) if self.num_warmup is None else self.num_warmup

    def requests(self, level: float) -> int:
        """Returns how many requests a level has."""
        return self.num_requests or max(FEWEST_REQUESTS, REQUESTS_PER_WORKER * self.num_workers(level))

    def conversations(self, level: float) -> int:
        """Returns how many conversations a level has: enough for `num_requests`, or one per worker but at least two."""
        if self.num_requests is not None:
            return math.ceil(self.num_requests / self.num_turns)
        return max(FEWEST_CONVERSATIONS, self.num_workers(level))

    def label(self, level: float) -> str:
        """Returns a level's name."""
        return f"{level:g} requests/s" if self.mode is Mode.OPEN else f"concurrency {level:g}"
