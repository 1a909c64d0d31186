"""A device that computes a checksum, minds its manners' breach, and fails where it is told to."""

from index_grpc.contract import Token
from index_grpc.engine.sequence import Batch, Sequence

POISON = 999
"""A prompt that holds this id cannot be computed."""
VOCAB = 50


class FakeRunner:
    """Draws (sum of all ids × step) mod VOCAB; raises if a batch breaks the scheduler's rules."""

    def __init__(self, chunk_tokens: int, rows_independent: bool = True) -> None:
        self.chunk_tokens, self.rows_independent = chunk_tokens, rows_independent
        self.computed: dict[int, list[int]] = {}
        """By row: the ids whose keys and values a real device would hold."""
        self.num_runs = 0

    def run(self, batch: Batch) -> list[Token]:
        self.num_runs += 1
        assert batch
        for places in ([span.sequence.slot for span in batch], [span.sequence.row for span in batch]):
            assert len(set(places)) == len(places), "one slot or row twice in a batch"
        assert sum(span.count for span in batch if span.end <= span.sequence.num_prompt) <= self.chunk_tokens
        if any(POISON in span.sequence.ids for span in batch):
            raise RuntimeError("poison")
        return [token for span in batch for token in self._compute(span.sequence, span.start, span.end, span.samples)]

    def release(self, row: int) -> None:
        self.computed.pop(row, None)

    def held_rows(self) -> set[int]:
        return set(self.computed)

    def _compute(self, sequence: Sequence, start: int, end: int, samples: bool) -> list[Token]:
        if sequence.row not in self.computed:
            shared = self.computed[sequence.match.prefix.row][: sequence.num_cached] if sequence.match else []
            self.computed[sequence.row] = list(shared)
        row = self.computed[sequence.row]
        assert start <= len(row), "a position was skipped"
        assert start == sequence.num_computed
        assert row[:start] == sequence.ids[:start], "another sequence's positions"
        row[start:] = sequence.ids[start:end]
        return [Token(next_id(row))] if samples else []


def next_id(ids: list[int]) -> int:
    """What the fake device draws after these ids."""
    return sum(ids) * len(ids) % VOCAB


def answer(prompt: list[int], max_tokens: int, stop_ids: frozenset[int] = frozenset()) -> list[int]:
    """What it answers to a prompt alone."""
    ids = list(prompt)
    while len(ids) - len(prompt) < max_tokens:
        ids.append(next_id(ids))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt) :]
