"""A heap of request deadlines, and the error of a request whose deadline has passed."""

import heapq
from collections.abc import Container

from index_grpc.datatypes import Deadline
from index_grpc.errors import DeadlineTooShort, in_seconds

SPARE = 1000
"""How many entries the heap may gain, beyond doubling, before those of ended requests are removed."""


class Deadlines:
    """The instants of deadlines with the numbers of their requests."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._most = SPARE

    def __len__(self) -> int:
        return len(self._heap)

    def note(self, instant: float, number: int, still_open: Container[int]) -> None:
        """Adds a request's deadline; now and then removes those of requests that are not in `still_open`."""
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[1] in still_open]
            heapq.heapify(self._heap)
            self._most = 2 * len(self._heap) + SPARE
        heapq.heappush(self._heap, (instant, number))

    def take_passed(self, now: float) -> list[int]:
        """Removes the deadlines that have passed and returns the numbers of their requests."""
        passed = []
        while self._heap and self._heap[0][0] <= now:
            passed.append(heapq.heappop(self._heap)[1])
        return passed


def too_late(deadline: Deadline) -> DeadlineTooShort:
    """Returns the error of a request whose deadline passed before its first token.

    gRPC tells the server only what is left of a deadline, so of one that had passed on arrival its length is not known.
    """
    if deadline.seconds <= 0:
        return DeadlineTooShort(f"the call's {deadline.bound} passed before the call arrived; allow more time")
    bound = f"the call's {deadline.bound} of {in_seconds(deadline.seconds)}"
    return DeadlineTooShort(f"{bound} passed before its first token; allow more time")
