"""A device that computes a checksum over its memory, checks the scheduler's rules, and fails when a test wants it."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass

from index_grpc.datatypes import Token
from index_grpc.engine.sequence import Batch, Span
from index_grpc.errors import DeviceLost

POISON = 999
"""The launch of a step fails if a prompt in it contains this id."""
LATE_POISON = 998
"""With this id the launch succeeds, and waiting for the step fails."""
LONE_POISON = 997
"""With this id only its own span fails; the other spans of the step succeed."""
POISONS = {POISON, LATE_POISON, LONE_POISON}
VOCAB = 50
GARBAGE = -1


@dataclass(frozen=True)
class FakeLaunched:
    """A step that was computed at its launch; `wait` returns its results."""

    runner: "FakeRunner"
    results: list[Token | Exception]
    failed: bool

    def wait(self) -> list[Token | Exception]:
        assert self.runner.under_way.pop(0) is self, "steps come back in order"
        if self.failed:
            raise RuntimeError("late poison")
        return self.results


class FakeRunner:
    """Draws (sum of all ids × step) mod VOCAB; raises if a batch breaks the scheduler's rules.

    Its memory holds the id whose keys and values a real device would hold, by block and offset.
    """

    def __init__(self, chunk_tokens: int, rows_independent: bool = True, run_ahead: int = 0) -> None:
        self.chunk_tokens, self.rows_independent, self.run_ahead = chunk_tokens, rows_independent, run_ahead
        self.block_tokens, self.answers_like_prompts = 8, False
        self.memory: dict[int, dict[int, int]] = {}
        self.drawn: dict[int, int] = {}
        """The last drawn token of each slot."""
        self.under_way: list[FakeLaunched] = []
        self.num_launches = 0

    def launch(self, batch: Batch) -> FakeLaunched:
        try:
            return self._launch(batch)
        except (AssertionError, LookupError) as error:
            raise DeviceLost("the batch breaks the rules") from error

    def _launch(self, batch: Batch) -> FakeLaunched:
        self.num_launches += 1
        assert batch.spans
        assert len(self.under_way) <= self.run_ahead
        slots = [span.sequence.slot for span in batch.spans]
        assert len(set(slots)) == len(slots), "one slot twice in a batch"
        prompt_counts = [span.count for span in batch.spans if span.end <= span.sequence.num_prompt]
        assert sum(prompt_counts) <= self.chunk_tokens
        if any(POISON in span.sequence.ids for span in batch.spans):
            raise RuntimeError("poison")
        failed = any(LATE_POISON in span.sequence.ids for span in batch.spans)
        in_order = not failed and not any(launched.failed for launched in self.under_way)
        results = self._compute(batch) if in_order else self._spoil(batch)
        self.under_way.append(launched := FakeLaunched(self, results, failed))
        return launched

    def _compute(self, batch: Batch) -> list[Token | Exception]:
        for copy in batch.copies:
            held = self.memory.get(copy.source, {})
            self.memory[copy.target] = {offset: held[offset] for offset in range(copy.num_tokens)}
        for span in batch.spans:
            self._write(span, self._ids(span))
        return [self._draw(span) for span in batch.spans if span.samples]

    def _spoil(self, batch: Batch) -> list[Token | Exception]:
        """Computes a step that fails, or that follows a failed one: it writes garbage to all its blocks."""
        for copy in batch.copies:
            self.memory[copy.target] = {}
        for span in batch.spans:
            self._write(span, [GARBAGE] * span.count)
        return [Token(GARBAGE) for span in batch.spans if span.samples]

    def _ids(self, span: Span) -> Ids[int]:
        ids = span.sequence.ids[span.start : span.end]
        assert span.known == (len(ids) == span.count)
        return ids if span.known else [*ids, self.drawn[span.sequence.slot]]

    def _write(self, span: Span, ids: Ids[int]) -> None:
        is_prompt = span.end <= span.sequence.num_prompt or self.answers_like_prompts
        assert is_prompt or span.count == 1, "an answer computed like a prompt"
        for position, token_id in enumerate(ids, span.start):
            block, offset = divmod(position, self.block_tokens)
            self.memory.setdefault(span.sequence.blocks[block], {})[offset] = token_id

    def _draw(self, span: Span) -> Token | Exception:
        sequence, held = span.sequence, self._read(span)
        assert span.step < sequence.request.max_tokens, "more than was asked for"
        assert held[: len(sequence.ids)] == sequence.ids, "another sequence's positions"
        assert span.step == len(held) - sequence.num_prompt
        if LONE_POISON in held:
            self.drawn[sequence.slot] = GARBAGE
            return FloatingPointError("lone poison")
        self.drawn[sequence.slot] = token_id = next_id(held)
        return Token(token_id)

    def _read(self, span: Span) -> list[int]:
        """The ids in a sequence's blocks up to the span's end."""
        places = [divmod(position, self.block_tokens) for position in range(span.end)]
        return [self.memory[span.sequence.blocks[block]][offset] for block, offset in places]


def next_id(ids: list[int]) -> int:
    """The id that the fake device draws after these ids."""
    return sum(ids) * len(ids) % VOCAB


def answer(prompt: list[int], max_tokens: int, stop_ids: frozenset[int] = frozenset()) -> list[int]:
    """Its answer to a prompt, computed alone."""
    ids = list(prompt)
    while len(ids) - len(prompt) < max_tokens:
        ids.append(next_id(ids))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt) :]
