"""Shows the entries of a file of API keys as a table, without their hashes."""

from datetime import UTC, datetime, time

from index_grpc.access.keys import Key, Keys

HEADING = ("name", "requests_per_minute", "max_concurrent", "expires", "state")
NOTHING = "-"
GAP = "  "
LONGEST_ALIGNED = 20
"""A longer value moves only what is to its right on its own line, so that the other lines fit into 80 columns."""


def table(keys: Keys) -> list[str]:
    """Returns a heading, and a line for each key in the order of the file; `-` stands for what is not set."""
    rows = [HEADING, *(_row(name, key) for name, key in keys.keys.items())]
    widths = [min(max(map(len, column)), LONGEST_ALIGNED) for column in zip(*rows, strict=True)]
    return [GAP.join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(name: str, key: Key) -> tuple[str, ...]:
    per_minute = NOTHING if key.requests_per_minute is None else f"{key.requests_per_minute:.15g}"
    at_a_time = NOTHING if key.max_concurrent is None else str(key.max_concurrent)
    return name, per_minute, at_a_time, _day(key.expires), "expired" if key.has_expired else "valid"


def _day(expires: datetime | None) -> str:
    """Returns the day, or the instant if it is not the beginning of a day, in UTC and without spaces."""
    if expires is None:
        return NOTHING
    instant = expires.astimezone(UTC)
    is_whole = instant.time() == time.min
    return instant.date().isoformat() if is_whole else instant.replace(tzinfo=None).isoformat() + "Z"
