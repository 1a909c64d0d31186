"""The gate: every call says who it is, and is let in, or not."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from index_grpc.access.files import Reloaded
from index_grpc.access.keys import Key, Keys
from index_grpc.access.limits import Clock, Usage
from index_grpc.errors import KeyExpired, KeyMissing, KeyWrong

HOW = "send the header authorization: Bearer KEY"


class Gate:
    """Knows callers by their keys. Without keys everyone comes in, and has no name. Used from one event loop.

    What a name has used is kept when the file of keys is replaced.
    """

    def __init__(self, keys: Reloaded[Keys] | None = None, clock: Clock = time.monotonic) -> None:
        self._keys = keys
        self._usage: defaultdict[str, Usage] = defaultdict(lambda: Usage(clock))

    @contextmanager
    def admitted(self, authorization: str) -> Iterator[str]:
        """Lets a call in for as long as it is open, and says who makes it. Raises Unauthenticated or RateLimited."""
        if self._keys is None:
            yield ""
            return
        name, key = _known(self._keys.value, authorization)
        with self._usage[name].of_one_call(name, key):
            yield name

    def check(self, authorization: str) -> None:
        """Only asks who it is, and counts nothing. Raises Unauthenticated."""
        if self._keys is not None:
            _known(self._keys.value, authorization)


def _known(keys: Keys, authorization: str) -> tuple[str, Key]:
    scheme, _, presented = authorization.partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise KeyMissing(f"this server asks for an API key; {HOW}")
    found = keys.find(presented.strip())
    if found is None:
        raise KeyWrong(f"this API key is none of the server's; ask who runs it for one, then {HOW}")
    name, key = found
    if key.has_expired:
        raise KeyExpired(f"the time of API key {name} is over; ask who runs the server for a new one")
    return found
