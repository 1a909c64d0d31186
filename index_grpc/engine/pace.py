"""How fast places become free, which tells those who wait how long it may take."""

from collections import deque

from index_grpc.contract import Timing


class Pace:
    """How soon places become free, judged by how long the last few requests held theirs."""

    def __init__(self, num_places: int, num_remembered: int = 32) -> None:
        self._num_places = num_places
        self._held: deque[float] = deque(maxlen=num_remembered)

    def record(self, timing: Timing) -> None:
        """Notes a request that has given its place back."""
        self._held.append(timing.total - timing.queue)

    @property
    def seconds(self) -> float:
        """Seconds from one place becoming free to the next when all are taken; 0 before anything is known."""
        return sum(self._held) / len(self._held) / self._num_places if self._held else 0.0
