"""A request in the engine's hands."""

from dataclasses import dataclass, field

from index_grpc.contract import Copy, FinishReason, Timing, TokenRequest


@dataclass(slots=True, eq=False)
class Sequence:
    """Mutable state of one request; touched by the engine's thread only.

    ids       [ p0 p1 … pn | t0 t1 … tm ] ?     prompt, then generated tokens; one more may be under way
    computed  [ ----------------------- )       their keys and values stand in the blocks, or will after this step
    confirmed [ ------------------- )           the steps that computed them have come back
    """

    number: int
    """The door's name for it, unlike the request's id never given twice; who came later has a larger one."""
    request: TokenRequest
    longest: int = 0
    """The most tokens that prompt and answer can come to."""
    slot: int = -1
    """Its place among the running ones; -1 while it does not run."""
    blocks: list[int] = field(default_factory=list)
    """Blocks of the cache that hold its keys and values, in order."""
    ids: list[int] = field(default_factory=list)
    num_prompt: int = 0
    """Tokens of the prompt."""
    num_prefill: int = 0
    """Tokens that are computed in chunks as a prompt is, before one at a time."""
    num_computed: int = 0
    num_confirmed: int = 0
    num_launched: int = 0
    """Steps under way that compute something of it."""
    num_pending: int = 0
    """Tokens that steps under way generate."""
    num_cached: int = 0
    """Tokens of the prompt that were there before it came."""
    num_preemptions: int = 0
    """How often it had to stop running and begin again."""
    scheduled_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.ids = list(self.request.prompt_ids)
        self.num_prompt = len(self.ids)

    @property
    def is_running(self) -> bool:
        """Whether it has a slot."""
        return self.slot >= 0

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.ids) - self.num_prompt

    @property
    def num_ids(self) -> int:
        """Tokens of prompt and answer, those under way included."""
        return len(self.ids) + self.num_pending

    @property
    def timing(self) -> Timing:
        """Seconds since arrival of what has happened so far."""
        arrival = self.request.arrival
        return Timing(self.scheduled_at - arrival, self.first_token_at - arrival, self.last_token_at - arrival)

    def next_span(self, count: int) -> "Span":
        """Its next tokens to compute, so many."""
        num_known = len(self.ids)
        num_ids, end = num_known + self.num_pending, self.num_computed + count
        samples, step = end == num_ids, num_ids - self.num_prompt
        return Span(self, self.num_computed, count, samples, step, known=end <= num_known)

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
    """A run of a sequence's tokens to compute in one step, from position `start` on: ids[start : start + count]."""

    sequence: Sequence
    start: int
    count: int
    samples: bool
    """Whether the step yields a next token: its last one is the last there is, known or under way."""
    step: int
    """Which token of the answer that is, from 0 on."""
    known: bool
    """Whether all its ids are known. If not, the last one is what the step before draws for the sequence."""

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.start + self.count

    @property
    def num_prompt(self) -> int:
        """How many of its tokens are the prompt's: one that is computed again may go on with the answer in a span."""
        return max(0, min(self.end, self.sequence.num_prompt) - self.start)

    @property
    def is_next(self) -> bool:
        """Whether its sequence still runs, and stands where the span begins."""
        return self.sequence.is_running and self.sequence.num_computed == self.start

    def launch(self) -> None:
        """Notes that a step computes it."""
        self.sequence.num_computed = self.end
        self.sequence.num_launched += 1
        self.sequence.num_pending += self.samples

    def complete(self) -> None:
        """Notes that the step has come back."""
        self._leave_step()
        if self.sequence.is_running:
            self.sequence.num_confirmed = self.end

    def take_back(self) -> None:
        """Notes that the step came to nothing."""
        self._leave_step()
        if self.sequence.is_running:
            self.sequence.num_computed = self.start

    def _leave_step(self) -> None:
        self.sequence.num_launched -= 1
        self.sequence.num_pending -= self.samples


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes: first the copies, then the spans."""

    spans: list[Span]
    copies: list[Copy] = field(default_factory=list)
