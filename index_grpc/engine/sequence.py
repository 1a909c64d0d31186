"""The engine's state of a request, and the spans and batches that a step computes."""

from dataclasses import dataclass, field

from index_grpc.datatypes import Copy, FinishReason, Timing, TokenRequest


@dataclass(slots=True, eq=False)
class Sequence:
    """The mutable state of one request; only the engine's thread may use it.

    ids       [ p0 p1 … pn | t0 t1 … tm ] ?     prompt, then generated tokens; one more may be in flight
    computed  [ ----------------------- )       keys and values are in the blocks, or will be after steps in flight
    confirmed [ ------------------- )           the steps that computed these are collected
    """

    number: int
    """Given by `Engine` in order of arrival and, unlike the request's id, never twice."""
    request: TokenRequest
    longest: int = 0
    """The most tokens that prompt and answer together can have."""
    slot: int = -1
    """Its place among the running sequences; -1 while it does not run."""
    blocks: list[int] = field(default_factory=list)
    """Blocks of the cache that hold its keys and values, in order."""
    ids: list[int] = field(default_factory=list)
    num_prompt: int = 0
    """Number of prompt tokens."""
    num_prefill: int = 0
    """Tokens that are prefilled in chunks before decoding begins."""
    num_computed: int = 0
    num_confirmed: int = 0
    num_launched: int = 0
    """Steps in flight that compute tokens of it."""
    num_pending: int = 0
    """Tokens that steps in flight generate."""
    num_cached: int = 0
    """Prompt tokens taken from a shared prefix when it first began to run."""
    num_preemptions: int = 0
    """How often it was preempted."""
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
        """Number of generated tokens so far."""
        return len(self.ids) - self.num_prompt

    @property
    def num_ids(self) -> int:
        """Number of tokens of prompt and answer, including those in flight."""
        return len(self.ids) + self.num_pending

    @property
    def timing(self) -> Timing:
        """Times of what has happened so far, in seconds since arrival."""
        arrival = self.request.arrival
        return Timing(self.scheduled_at - arrival, self.first_token_at - arrival, self.last_token_at - arrival)

    def next_span(self, count: int) -> "Span":
        """Returns the span of its next `count` tokens to compute."""
        num_known = len(self.ids)
        num_ids, end = num_known + self.num_pending, self.num_computed + count
        samples, step = end == num_ids, num_ids - self.num_prompt
        return Span(self, self.num_computed, count, samples, step, known=end <= num_known)

    def append(self, token_id: int, now: float) -> None:
        """Adds a generated token."""
        self.ids.append(token_id)
        self.first_token_at = self.first_token_at or now
        self.last_token_at = now

    def finish_reason(self, context_length: int, time_is_up: bool) -> FinishReason | None:
        """Returns why the sequence ends with its last token, or None if it goes on."""
        if self.ids[-1] in self.request.stop_ids:
            return FinishReason.STOP
        if self.num_generated >= self.request.max_tokens:
            return FinishReason.MAX_TOKENS
        if len(self.ids) >= context_length:
            return FinishReason.CONTEXT_LENGTH
        return FinishReason.TIME_LIMIT if time_is_up else None


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of a sequence to compute in one step, from position `start` on: ids[start : start + count]."""

    sequence: Sequence
    start: int
    count: int
    samples: bool
    """Whether the step draws a next token: the span ends with the sequence's last token, known or in flight."""
    step: int
    """The index of that next token in the answer, from 0 on."""
    known: bool
    """Whether all its ids are known. If not, the last one is the token that the step before draws."""

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.start + self.count

    @property
    def num_prompt(self) -> int:
        """How many of its tokens are prompt tokens: after a preemption, a span may contain answer tokens too."""
        return max(0, min(self.end, self.sequence.num_prompt) - self.start)

    @property
    def is_next(self) -> bool:
        """Whether its sequence still runs and is computed exactly up to the span's start."""
        return self.sequence.is_running and self.sequence.num_computed == self.start

    def launch(self) -> None:
        """Records in the sequence that a step with this span was launched."""
        self.sequence.num_computed = self.end
        self.sequence.num_launched += 1
        self.sequence.num_pending += self.samples

    def complete(self) -> None:
        """Records that the step is collected."""
        self._leave_step()
        if self.sequence.is_running:
            self.sequence.num_confirmed = self.end

    def take_back(self) -> None:
        """Records that the step failed."""
        self._leave_step()
        if self.sequence.is_running:
            self.sequence.num_computed = self.start

    def _leave_step(self) -> None:
        self.sequence.num_launched -= 1
        self.sequence.num_pending -= self.samples


@dataclass(frozen=True, slots=True)
class Batch:
    """The work of one step: first the copies, then the spans."""

    spans: list[Span]
    copies: list[Copy] = field(default_factory=list)
