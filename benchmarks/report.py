"""An experiment's results, as a table for people and as JSON for `bench.py`, which collects all of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

VERDICTS = {True: "met", False: "MISSED", None: "open"}


@dataclass(frozen=True)
class Goal:
    """A goal, and the measured value."""

    what: str
    limit: str
    found: str
    is_met: bool | None
    """None if it was not measured."""

    @classmethod
    def at_least(cls, what: str, limit: float, found: float | None, unit: str = "") -> "Goal":
        """A goal for a value that should be large; None means that it was not measured."""
        is_met = None if found is None else found >= limit
        return cls(what, f"≥ {limit:g}{unit}", _shown(found, unit), is_met)

    @classmethod
    def at_most(cls, what: str, limit: float, found: float | None, unit: str = "") -> "Goal":
        """A goal for a value that should be small; None means that it was not measured."""
        is_met = None if found is None else found <= limit
        return cls(what, f"≤ {limit:g}{unit}", _shown(found, unit), is_met)


@dataclass(frozen=True)
class Section:
    """The results of one experiment."""

    title: str
    about: str
    """What was done, in one or two sentences."""
    command: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    data: dict[str, object] = field(default_factory=dict)
    """The data from which the table is made."""


def emit(section: Section) -> None:
    """Prints a section: the table, the goals, and one JSON object as the last line."""
    print(f"{section.title}\n{section.about}\n")
    print(aligned([section.columns, *section.rows]))
    for goal in section.goals:
        print(f"{VERDICTS[goal.is_met]}: {goal.what}: {goal.found} (goal {goal.limit})")
    for note in section.notes:
        print(f"note: {note}")
    print(json.dumps(asdict(section), ensure_ascii=False))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Aligns cells in columns, the first one left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _shown(found: float | None, unit: str) -> str:
    return "not measured" if found is None else f"{found:.3g}{unit}"
