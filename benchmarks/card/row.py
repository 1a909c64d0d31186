"""A row of the table: the results of one side at one level."""

from dataclasses import dataclass

OURS, LONG, PREFILL = "engine", "engine, long contexts", "engine, prompts alone"
MEMORY, OURS_BESIDE, WIRE = "engine, a small card's room", "engine, callers ask again", "over gRPC, callers ask again"
TUTORIAL, STATIC, CONTINUOUS = "pipeline", "static", "continuous"
"""The names of the peers' modules."""

COLUMNS = ("", "at once", "tokens/s", "first token, ms", "decode step, ms", "share of the ceiling")


@dataclass(frozen=True)
class Row:
    """The figures of one side at one level; those that it cannot measure are None."""

    name: str
    at_once: int
    tokens_per_s: float | None = None
    first_token_s: float | None = None
    """Median over the requests."""
    step_s: float | None = None
    """Median over the steps in which all decode."""
    share: float | None = None
    """The share of the most that is possible: of the memory's speed for decoding, of the rate of matrix products for
    prompts, of the engine alone for gRPC."""

    @property
    def cells(self) -> list[str]:
        """The cells in the order of COLUMNS."""
        tokens = "–" if self.tokens_per_s is None else f"{self.tokens_per_s:.0f}"
        times = ["–" if value is None else f"{value * 1e3:.2f}" for value in (self.first_token_s, self.step_s)]
        return [self.name, str(self.at_once), tokens, *times, "–" if self.share is None else f"{self.share:.0%}"]
