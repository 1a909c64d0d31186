"""The figures of a round, the medians and ratios of passes, and a table of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from peer import Round

COLUMN = 8
DISTURBED_CORES = 0.1


@dataclass(frozen=True)
class Figures:
    """The figures of a round."""

    tokens_per_s: float
    first_token_s: float
    """Mean over the requests."""
    step_s: float | None
    """Median duration of steps in which all decode; None if the peer cannot measure it or there was no such step."""
    others_cores: float
    """Cores that other processes used meanwhile; with more than a few hundredths, the round is not reliable."""

    @classmethod
    def of(cls, found: Round) -> "Figures":
        """Computes the figures of a round."""
        step = statistics.median(found.step_s) if found.step_s else None
        first = statistics.fmean(found.first_token_s)
        return cls(sum(found.num_tokens) / found.seconds, first, step, found.others_cores)

    def __str__(self) -> str:
        step = f", step {self.step_s * 1e3:.1f} ms" if self.step_s else ""
        others = f", {self.others_cores:.2f} cores taken by others" if self.others_cores > DISTURBED_CORES else ""
        return f"{self.tokens_per_s:.1f} tokens/s, first {self.first_token_s:.3f} s{step}{others}"


@dataclass(frozen=True)
class Pass:
    """The same round with our server and with the peer, one directly after the other."""

    ours: Figures
    theirs: Figures


@dataclass(frozen=True)
class Row:
    """Our server and a peer at one level. Figures, and ratios of ours to the peer's, are medians of the passes."""

    peer: str
    at_once: int
    same_answers: float
    """The share of answers in a greedy trial with the same text."""
    ours: Figures
    theirs: Figures
    tokens_per_s_ratio: float
    """Our server is faster if this is above 1, or if one of the other two ratios is below 1."""
    first_token_ratio: float
    step_ratio: float | None
    passes: list[Pass]

    @classmethod
    def of(cls, peer: str, at_once: int, same_answers: float, passes: list[Pass]) -> "Row":
        """Computes the medians of at least one pass."""
        steps = [one.ours.step_s / one.theirs.step_s for one in passes if one.ours.step_s and one.theirs.step_s]
        return cls(
            peer=peer,
            at_once=at_once,
            same_answers=same_answers,
            ours=_medians([one.ours for one in passes]),
            theirs=_medians([one.theirs for one in passes]),
            tokens_per_s_ratio=statistics.median(one.ours.tokens_per_s / one.theirs.tokens_per_s for one in passes),
            first_token_ratio=statistics.median(one.ours.first_token_s / one.theirs.first_token_s for one in passes),
            step_ratio=statistics.median(steps) if steps else None,
            passes=passes,
        )


def table(rows: Sequence[Row]) -> str:
    """The rows as text; for each figure ours, the peer's, and their ratio."""
    heads = "".join(f"{head:>{3 * COLUMN}}" for head in ("tokens/s", "first token, s", "step, ms"))
    lines = [f"{'peer':<15}{'at once':>{COLUMN}}{'same':>{COLUMN}}{heads}"]
    for row in rows:
        ours, theirs = row.ours, row.theirs
        cells = [
            *_cells(ours.tokens_per_s, theirs.tokens_per_s, row.tokens_per_s_ratio, ".1f"),
            *_cells(ours.first_token_s, theirs.first_token_s, row.first_token_ratio, ".3f"),
        ]
        if row.step_ratio and ours.step_s and theirs.step_s:
            cells += _cells(ours.step_s * 1e3, theirs.step_s * 1e3, row.step_ratio, ".1f")
        aligned = "".join(f"{cell:>{COLUMN}}" for cell in (row.at_once, f"{row.same_answers:.0%}", *cells))
        lines.append(f"{row.peer:<15}{aligned}")
    return "\n".join(lines)


def _cells(ours: float, theirs: float, ratio: float, form: str) -> tuple[str, str, str]:
    return f"{ours:{form}}", f"{theirs:{form}}", f"×{ratio:.2f}"


def _medians(rounds: Sequence[Figures]) -> Figures:
    steps = [one.step_s for one in rounds if one.step_s]
    return Figures(
        statistics.median(one.tokens_per_s for one in rounds),
        statistics.median(one.first_token_s for one in rounds),
        statistics.median(steps) if steps else None,
        statistics.median(one.others_cores for one in rounds),
    )
