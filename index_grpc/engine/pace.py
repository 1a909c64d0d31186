"""The pace at which places to run become free, to estimate waiting times."""

from collections import deque

from index_grpc.datatypes import Timing


class Pace:
    """Estimates how soon places become free from how long the last few requests held theirs."""

    def __init__(self, num_remembered: int = 32) -> None:
        self._held: deque[float] = deque(maxlen=num_remembered)

    def record(self, timing: Timing) -> None:
        """Records a request that has ended."""
        self._held.append(timing.total - timing.queue)

    def seconds(self, num_places: int) -> float:
        """Mean seconds between two of the places becoming free while all are taken; 0 before the first record."""
        return sum(self._held) / len(self._held) / num_places if self._held else 0.0
