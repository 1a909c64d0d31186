"""What callers may give: times, texts and headers. What is not allowed is a ValueError that names it and the remedy."""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from operator import index
from typing import SupportsFloat, SupportsIndex

LONGEST_TIMEOUT_S = 365 * 24 * 3600.0
"""gRPC counts nanoseconds in 64 bits; a deadline beyond them would have passed at once."""

LONGEST_TIME_LIMIT_S = 315_576_000_000
"""The longest time that a Duration of protobuf holds, 10,000 years."""

MOST_UINT32 = 2**32 - 1
GOOD_REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""What the server takes; it looks at this, too."""
METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
BINARY_SUFFIX = "-bin"


def allowed_timeout(seconds: float, name: str = "timeout") -> float:
    """Returns the timeout, or the longest that gRPC can count if that is less; infinity stays what it is."""
    if not seconds > 0:  # NaN is not, either
        raise ValueError(f"{name} is {seconds:g} s; allowed is more than 0 s, and inf to wait for ever")
    return seconds if seconds == float("inf") else min(seconds, LONGEST_TIMEOUT_S)


def allowed_time_limit(limit: float | timedelta, name: str = "time_limit") -> timedelta:
    """Returns the time limit, given in seconds or as it is returned."""
    seconds = limit.total_seconds() if isinstance(limit, timedelta) else limit
    if not 0 < seconds <= LONGEST_TIME_LIMIT_S:
        allowed = f"more than 0 s, at most {LONGEST_TIME_LIMIT_S:,} s"
        raise ValueError(f"{name} is {seconds:g} s; allowed is {allowed}; unset means no limit of its own")
    return limit if isinstance(limit, timedelta) else max(timedelta(seconds=limit), timedelta.resolution)


def require_uint32(numbers: Mapping[str, object]) -> None:
    """Refuses numbers, each under its name, that the contract has no room for; other types with a TypeError."""
    for name, number in numbers.items():
        if number is None:
            continue
        if not isinstance(number, SupportsIndex):
            raise TypeError(f"{name} is {number!r}; allowed are whole numbers")
        if not 0 <= index(number) <= MOST_UINT32:
            raise ValueError(f"{name} is {number}; it is sent in 32 bits, which hold 0 to {MOST_UINT32}")


def require_numbers(values: Mapping[str, object]) -> None:
    """Refuses with a TypeError values, each under its name, that are no numbers; None is not given."""
    for name, value in values.items():
        if not isinstance(value, SupportsFloat | SupportsIndex | None):
            raise TypeError(f"{name} is {value!r}; allowed are numbers")


def require_utf8(texts: Mapping[str, object]) -> None:
    """Refuses texts, each under its name, that UTF-8 cannot hold: what was read from bytes of another encoding.

    What is no text is refused with a TypeError.
    """
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise TypeError(f"{name} is {text!r}; allowed is a str")
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            found = f"{error.object[error.start]!a} at character {error.start}"
            message = f"{name} holds {found}, which is not UTF-8; allowed is any text in UTF-8; convert it first"
            raise ValueError(message) from error


def allowed_header(text: str, name: str) -> str:
    """Returns what is sent as the value of a header. The message does not show it whole, since it may be a secret."""
    for place, character in enumerate(text):
        if not " " <= character <= "~":
            found = f"{character!a} at character {place}"
            raise ValueError(f"{name} holds {found}; allowed are printable ASCII characters; leave it out")
    return text


def allowed_request_id(text: str) -> str:
    """Returns the id. The server would put one of its own in the place of one that it does not take."""
    if not GOOD_REQUEST_ID.fullmatch(text):
        allowed = "1 to 128 ASCII characters, none of them a space"
        raise ValueError(f"request_id is {text[:40]!a}; allowed are {allowed}")
    return text


def allowed_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, str | bytes]]:
    """Returns the pairs. gRPC would fail the call for one that is not allowed, and not say which it is."""
    allowed = list(pairs)
    for key, value in allowed:
        if not METADATA_KEY.fullmatch(key):
            characters = "lower-case letters, digits and any of _-."
            raise ValueError(f"metadata has the key {key!a}; allowed are {characters}")
        if not key.endswith(BINARY_SUFFIX):
            allowed_header(value if isinstance(value, str) else value.decode("latin-1"), f"metadata {key}")
        elif isinstance(value, str):
            raise ValueError(f"metadata {key} is text; allowed are bytes, or a key that does not end with -bin")
    return allowed
