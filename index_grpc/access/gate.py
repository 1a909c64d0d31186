"""The gate: it identifies the caller of each call by an API key, and admits the call or refuses it."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from index_grpc.access.files import Reloaded
from index_grpc.access.keys import Key, Keys
from index_grpc.access.limits import Clock, KeyUsage
from index_grpc.errors import KeyExpired, KeyMissing, KeyWrong

HOW = "send the header authorization: Bearer KEY"


@dataclass(frozen=True, slots=True)
class Caller:
    """The name and the key of a call's caller; the key is None if the server asks for none."""

    name: str
    key: Key | None


ANONYMOUS = Caller("", None)


class Gate:
    """Identifies callers by their keys. Without keys it admits all callers, without a name. Used from one event loop.

    The usage of a name is kept when the file of keys is replaced.
    """

    def __init__(self, keys: Reloaded[Keys] | None = None, clock: Clock = time.monotonic) -> None:
        self._keys = keys
        self._usage: defaultdict[str, KeyUsage] = defaultdict(lambda: KeyUsage(clock))

    def caller(self, authorization: str) -> Caller:
        """Returns the caller who sent this header. Raises Unauthenticated if its key is missing, wrong or expired."""
        return ANONYMOUS if self._keys is None else _known(self._keys.value, authorization)

    def counted(self, caller: Caller, was_served: Callable[[], bool]) -> AbstractContextManager[None]:
        """Counts a call for as long as it is open. Raises RateLimited if the key's limits do not allow it.

        `was_served` says, if the block raises Unavailable, whether the call counts as one of its key's requests.
        """
        if caller.key is None:
            return nullcontext()
        return self._usage[caller.name].of_one_call(caller.name, caller.key, was_served)


def _known(keys: Keys, authorization: str) -> Caller:
    scheme, _, presented = authorization.partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise KeyMissing(f"this server asks for an API key; {HOW}")
    found = keys.find(presented.strip())
    if found is None:
        raise KeyWrong(f"this API key is not known to the server; ask its operator for a valid one, then {HOW}")
    name, key = found
    if key.has_expired:
        raise KeyExpired(f"API key {name} has expired; ask the server's operator for a new one")
    return Caller(name, key)
