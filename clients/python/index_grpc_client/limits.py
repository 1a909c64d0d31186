"""Checks of the values that callers give: numbers, times, texts and headers.

A value that is not allowed raises ValueError, and a value of a wrong type raises TypeError. The message names the
argument. Functions `allowed_…` return the value to send; functions `require_…` only check.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from math import inf
from numbers import Real
from operator import index
from typing import Any, SupportsFloat, SupportsIndex, cast

LONGEST_TIMEOUT_S = 365 * 24 * 3600.0
"""Longer timeouts are cut to this: gRPC counts nanoseconds in 64 bits, and a larger deadline would pass at once."""

LONGEST_TIME_LIMIT_S = 315_576_000_000
"""The longest time that a Duration of protobuf holds, 10,000 years."""

MOST_UINT32 = 2**32 - 1
GOOD_REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""The ids that the server accepts. The server uses this pattern too."""
METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
BINARY_SUFFIX = "-bin"
RESERVED_PREFIX = "grpc-"
"""The prefix of gRPC's own keys: gRPC would take such a pair for the status of the call."""


def allowed_number(value: object, name: str) -> float:
    """Returns a number of any library as a float. A number that is too large for a float becomes infinite.

    Raises:
        TypeError: the value is not a number.
    """
    if not isinstance(value, SupportsFloat | SupportsIndex):
        raise TypeError(f"{name} is {value!r}; allowed are numbers")
    try:
        return float(value)
    except OverflowError:
        return -inf if cast("Real", value) < 0 else inf  # only whole numbers and fractions can be too large


def allowed_timeout(seconds: object, name: str = "timeout") -> float:
    """Returns the timeout, cut to LONGEST_TIMEOUT_S unless it is infinite. Raises ValueError if it is not above 0."""
    seconds = allowed_number(seconds, name)
    if not seconds > 0:  # so that NaN is refused too
        raise ValueError(f"{name} is {seconds:g} s; allowed is more than 0 s, and inf to wait for ever")
    return seconds if seconds == inf else min(seconds, LONGEST_TIMEOUT_S)


def allowed_time_limit(limit: float | timedelta, name: str = "time_limit") -> timedelta:
    """Returns a time limit, given in seconds or as a timedelta, as a timedelta of a microsecond or more.

    Raises ValueError if it is not above 0 or longer than LONGEST_TIME_LIMIT_S.
    """
    seconds = limit.total_seconds() if isinstance(limit, timedelta) else allowed_number(limit, name)
    if not 0 < seconds <= LONGEST_TIME_LIMIT_S:
        allowed = f"more than 0 s, at most {LONGEST_TIME_LIMIT_S:,} s"
        raise ValueError(f"{name} is {seconds:g} s; allowed is {allowed}; unset means no limit of its own")
    return limit if isinstance(limit, timedelta) else max(timedelta(seconds=seconds), timedelta.resolution)


def require_uint32(values: Mapping[str, object]) -> None:
    """Raises ValueError for a number that does not fit into 32 bits, and TypeError for one that is not whole."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            raise TypeError(f"{name} is {value!r}; allowed are whole numbers")
        if not 0 <= index(value) <= MOST_UINT32:
            raise ValueError(f"{name} is {value}; it is sent in 32 bits, which hold 0 to {MOST_UINT32}")


def require_utf8(texts: Mapping[str, object]) -> None:
    """Raises ValueError for a text that UTF-8 cannot hold, because it was read from bytes of another encoding.

    Raises TypeError for a value that is not a str.
    """
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} is {text!r}; allowed is a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"{error.object[error.start]!a} at character {error.start}"
            message = f"{name} holds {found}, which is not UTF-8; allowed is any text in UTF-8; convert it first"
            raise ValueError(message) from error


def allowed_header(text: str, name: str) -> str:
    """Returns the value of a header. An error's message does not show all of it, since it may be a secret."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is of type {type(text).__name__}; allowed is a str")
    for place, character in enumerate(text):
        if not " " <= character <= "~":
            found = f"{character!a} at character {place}"
            raise ValueError(f"{name} holds {found}; allowed are printable ASCII characters; leave out all others")
    return text


def allowed_request_id(text: str) -> str:
    """Returns the id. The server would replace an id that it does not accept by one of its own."""
    if not isinstance(text, str):
        raise TypeError(f"request_id is {text!r}; allowed is a str")
    if not GOOD_REQUEST_ID.fullmatch(text):
        allowed = "1 to 128 ASCII characters, none of them a space"
        raise ValueError(f"request_id is {text[:40]!a}; allowed are {allowed}")
    return text


def allowed_metadata(metadata: object) -> list[tuple[str, str | bytes]]:
    """Returns the pairs. For a pair that is not allowed, gRPC would fail the call without saying which pair it is."""
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise TypeError(f"metadata is {metadata!r}; allowed are a mapping or pairs of a key and a value")
    allowed = list(map(_pair, pairs))
    for key, value in allowed:
        if not isinstance(key, str):
            raise TypeError(f"metadata has the key {key!r}; allowed is a str")
        if not METADATA_KEY.fullmatch(key) or key.startswith(RESERVED_PREFIX):
            characters = f"lower-case letters, digits and any of _-., but not {RESERVED_PREFIX} at the beginning"
            raise ValueError(f"metadata has the key {key!a}; allowed are {characters}")
        if not isinstance(value, str | bytes):
            raise TypeError(f"metadata {key} is {value!r}; allowed are str and bytes")
        if not key.endswith(BINARY_SUFFIX):
            allowed_header(value if isinstance(value, str) else value.decode("latin-1"), f"metadata {key}")
        elif isinstance(value, str):
            raise ValueError(f"metadata {key} is text; allowed are bytes, or a key that does not end with -bin")
    return allowed


def _pair(pair: object) -> tuple[Any, Any]:
    match pair:
        case (key, value):
            return key, value
    raise TypeError(f"metadata has {pair!r}; allowed are pairs of a key and a value")


def several(values: object, name: str) -> list[Any]:
    """Returns the values of an option that may be one str or several. Raises TypeError if it is neither."""
    if isinstance(values, str | bytes):
        return [values]
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}; allowed are a str or several")
    return list(values)
