"""A request in the engine's hands."""

from dataclasses import dataclass, field

from index_grpc.contract import FinishReason, Timing, TokenRequest
from index_grpc.engine.prefixes import Match


@dataclass(slots=True, eq=False)
class Sequence:
    """Mutable state of one request; touched by the engine's thread only.

    ids      [ p0 p1 … pn | t0 t1 … tm ]     prompt, then generated tokens
    computed [ ----------------- )           their keys and values stand in the cache
    """

    number: int
    """The door's name for it, unlike the request's id never given twice."""
    request: TokenRequest
    slot: int = -1
    """Its place among the running ones; -1 before it runs."""
    row: int = -1
    """The row of the cache that holds its keys and values; -1 before it runs."""
    match: Match | None = None
    """The row that it continues, or whose beginning it copies."""
    num_reserved: int = 0
    """Cache positions promised to it, for the most tokens it can come to."""
    ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    scheduled_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.ids = list(self.request.prompt_ids)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_cached(self) -> int:
        """Tokens of the prompt that were there before it came."""
        return self.match.num_tokens if self.match else 0

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.ids) - self.num_prompt

    @property
    def timing(self) -> Timing:
        """Seconds since arrival of what has happened so far."""
        arrival = self.request.arrival
        return Timing(self.scheduled_at - arrival, self.first_token_at - arrival, self.last_token_at - arrival)

    def append(self, token_id: int, now: float) -> None:
        """Takes a generated token."""
        self.ids.append(token_id)
        self.first_token_at = self.first_token_at or now
        self.last_token_at = now

    def finish_reason(self, context_length: int, time_is_up: bool) -> FinishReason | None:
        """Why the sequence ends with its last token, or None if it goes on."""
        if self.ids[-1] in self.request.stop_ids:
            return FinishReason.STOP
        if self.num_generated >= self.request.max_tokens:
            return FinishReason.MAX_TOKENS
        if len(self.ids) >= context_length:
            return FinishReason.CONTEXT_LENGTH
        return FinishReason.TIME_LIMIT if time_is_up else None


@dataclass(frozen=True, slots=True)
class Span:
    """A run of a sequence's tokens to compute in one step: ids[start : start + count]."""

    sequence: Sequence
    start: int
    count: int

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.start + self.count

    @property
    def samples(self) -> bool:
        """Whether the step yields a next token: its last id is the last one known."""
        return self.end == len(self.sequence.ids)


Batch = list[Span]
