"""When whose time is over."""

import heapq
from collections.abc import Container

SPARE = 1000
"""So many of requests that have ended may be remembered before they are looked for."""


class Deadlines:
    """Instants of `time.monotonic()` with the numbers of the requests that should have ended by then."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._most = SPARE

    def __len__(self) -> int:
        return len(self._heap)

    def note(self, deadline: float, number: int, still_open: Container[int]) -> None:
        """Notes a request's; forgets those of requests that are not open any more from time to time."""
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[1] in still_open]
            heapq.heapify(self._heap)
            self._most = 2 * len(self._heap) + SPARE
        heapq.heappush(self._heap, (deadline, number))

    def take_passed(self, now: float) -> list[int]:
        """The requests whose time has passed, once."""
        passed = []
        while self._heap and self._heap[0][0] <= now:
            passed.append(heapq.heappop(self._heap)[1])
        return passed
