"""What is recorded of each request of a level."""

from dataclasses import dataclass, field
from itertools import pairwise

from index_grpc_client import Finish


@dataclass(slots=True)
class Record:
    """One request and its result. Instants are seconds of `time.perf_counter()`."""

    due: float
    """When it should be sent; in the open loop it may be sent a little later."""
    sent: float
    turn: int = 1
    messages: list[float] = field(default_factory=list)
    """When each message of the stream arrived."""
    finish: Finish | None = None
    """None unless the whole answer came."""
    ended: float = 0.0
    error: str = ""
    """The status code's name, if it failed."""
    details: str = ""
    """The error's message."""

    @property
    def gaps(self) -> list[float]:
        """Seconds from each message to the next."""
        return [after - before for before, after in pairwise(self.messages)]

    @property
    def seconds_per_token(self) -> list[float]:
        """(last message - first) / (tokens - 1) as a list, which is empty without a second token."""
        tokens = self.finish.usage.completion_tokens if self.finish else 0
        return [(self.messages[-1] - self.messages[0]) / (tokens - 1)] if tokens > 1 else []


@dataclass
class Measurement:
    """The records of one level, as they come in."""

    level: float
    started: float
    records: list[Record] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0
    num_messages: int = 0
    cpu_s: float = 0.0
    """Seconds of processor time that this process used during the level."""
    interrupted_at: float | None = None

    def opened(self) -> None:
        """Records that a request is sent."""
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)

    def closed(self, record: Record) -> None:
        """Records a request that has ended."""
        self.num_open -= 1
        self.records.append(record)
