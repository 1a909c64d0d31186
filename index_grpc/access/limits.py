"""The limits of one key: requests in a minute, and calls at a time."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from index_grpc.access.keys import Key
from index_grpc.errors import Overloaded, RateLimited, Unavailable, in_seconds

Clock = Callable[[], float]

ENOUGH = 1 - 1e-6
"""This part of a request is enough to admit a call: a caller who waits exactly as told is not refused by rounding."""
NEXT_PLACE_SECONDS = 1.0
"""When to come again if only the end of another call can make room: nobody knows how long that takes."""


class Bucket:
    """A token bucket: it holds a minute's requests, refills steadily and begins full."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._filled_at, self._requests = clock, clock(), math.inf

    def take(self, per_minute: float) -> float:
        """Takes a request and returns 0; if there is none, returns in how many seconds there will be one."""
        now = self._clock()
        gained = (now - self._filled_at) * per_minute / 60
        self._requests, self._filled_at = min(max(1.0, per_minute), self._requests + gained), now
        if self._requests < ENOUGH:
            return (1 - self._requests) * 60 / per_minute
        self._requests -= 1
        return 0.0

    def give_back(self) -> None:
        """Puts back a request that was taken; `take` drops what is more than a minute's."""
        self._requests += 1


class KeyUsage:
    """A key's open calls and its recent requests."""

    def __init__(self, clock: Clock) -> None:
        self.num_open = 0
        self._bucket = Bucket(clock)

    @contextmanager
    def of_one_call(self, name: str, key: Key, was_served: Callable[[], bool]) -> Iterator[None]:
        """Counts a call for as long as it is open. Raises RateLimited if the key's limits do not allow it.

        If the block raises Unavailable and `was_served` returns False then, the call is not one of the minute's
        requests: the caller can do nothing about it, and is told to make the call again. Overloaded is an exception,
        since calls that overload the server are what the limit is for.
        """
        if key.max_concurrent is not None and self.num_open >= key.max_concurrent:
            limit = f"key {name} has as many calls open as it may at a time, {key.max_concurrent}"
            told = f"{limit}; wait for one to end"
            raise RateLimited(told, NEXT_PLACE_SECONDS, key_name=name, max_concurrent=key.max_concurrent)
        if key.requests_per_minute is not None and (seconds := self._bucket.take(key.requests_per_minute)):
            per_minute = _decimal(key.requests_per_minute)
            limit = f"key {name} may make {per_minute} requests a minute"
            told = f"{limit}; try again in {in_seconds(seconds)}"
            raise RateLimited(told, seconds, key_name=name, requests_per_minute=per_minute)
        self.num_open += 1
        try:
            yield
        except Unavailable as error:
            if key.requests_per_minute is not None and not (isinstance(error, Overloaded) or was_served()):
                self._bucket.give_back()
            raise
        finally:
            self.num_open -= 1


def _decimal(number: float) -> str:
    """Returns the number to three decimals, without an exponent or zeros at the end."""
    return f"{number:.3f}".rstrip("0").rstrip(".")
