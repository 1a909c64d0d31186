"""The goals on a GPU, compared with the rows."""

from collections.abc import Sequence

from report import Goal

from card.row import CONTINUOUS, LONG, OURS, PREFILL, TUTORIAL, WIRE, Row

MANY = 64


def goals(rows: Sequence[Row]) -> list[Goal]:
    """The goals; those that were not measured stay open."""
    found = {(row.name, row.at_once): row for row in rows}
    one, many, long = found.get((OURS, 1)), found.get((OURS, MANY)), found.get((LONG, MANY))
    prompts = next((row for row in rows if row.name == PREFILL), None)
    tutorial, continuous = found.get((TUTORIAL, 1)), found.get((CONTINUOUS, MANY))
    return [
        Goal.at_least("of memory's speed, decoding for one", 75, _percent(one), " %"),
        Goal.at_least(f"of memory's speed, decoding for {MANY} with long contexts", 60, _percent(long), " %"),
        Goal.at_least("of the matrix rate, long prompts", 50, _percent(prompts), " %"),
        Goal.at_least(f"of the engine alone, over gRPC at {MANY}", 90, _percent(found.get((WIRE, MANY))), " %"),
        Goal.at_least("tokens/s by the pipeline's at 1", 12, _ratio(one, tutorial)),
        Goal.at_least(
            f"tokens/s by the pipeline's at {MANY}, where it answers one after the other", 150, _ratio(many, tutorial)
        ),
        Goal.at_least(f"tokens/s by continuous batching's at {MANY}", 4, _ratio(many, continuous)),
    ]


def _percent(row: Row | None) -> float | None:
    return None if row is None or row.share is None else 100 * row.share


def _ratio(ours: Row | None, theirs: Row | None) -> float | None:
    if ours is None or theirs is None or ours.tokens_per_s is None or not theirs.tokens_per_s:
        return None
    return ours.tokens_per_s / theirs.tokens_per_s
