"""Everything that touches the device happens here: a batch in, the next tokens out."""

from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import Tensor

from index_grpc.contract import Token
from index_grpc.engine.sampler import Sampler
from index_grpc.engine.sequence import Batch, Sequence
from index_grpc.model.config import ModelConfig
from index_grpc.model.ranking import History, Wish


class Cache(Protocol):
    """Keys and values in rows by number; the kind of its places is known to its model only."""

    @property
    def rows(self) -> set[int]:
        """Numbers of the rows that are held."""

    def begin(self, row: int, longest: int, source: int = -1, num_shared: int = 0) -> None:
        """Begins a row, with the first `num_shared` tokens of another; a row that is there goes on."""

    def place(self, row: int, start: int, count: int) -> Any:  # noqa: ANN401 - the model's own
        """Where a sequence's next tokens are to stand."""

    def release(self, row: int) -> None:
        """Lets a row go, if it has been begun."""


class Model(Protocol):
    """What the runner needs of a model: `Llama` with PyTorch, or `NativeLlama`."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    engine: str
    """What computes, for people."""
    rows_independent: bool
    """Whether tokens computed together get the same bits as alone."""
    cuts_independent: bool
    """Whether a token's bits are the same however its prompt is cut into parts that are computed together."""
    block_tokens: int | None
    """Positions of the blocks in which its cache's rows grow; None if they have their full length at once."""

    def new_cache(self) -> Cache:
        """An empty cache of this model's kind."""

    def forward(self, token_ids: Items[int], places: Items[Any], sampled: Items[int]) -> Tensor:
        """Logits [S, vocab_size] after the S tokens that `sampled` numbers, valid until the next call."""

    def rank(self, logits: Tensor, history: History, wishes: Items[Wish]) -> tuple[Tensor, Tensor]:
        """The likeliest tokens; see Rank."""


class ModelRunner:
    """The loop's Runner for a model: its cache and a sampler."""

    def __init__(self, model: Model, max_sequences: int) -> None:
        self.model, self.rows_independent = model, model.rows_independent
        self.cache = model.new_cache()
        self.sampler = Sampler(max_sequences, model.config.vocab_size, model.device, model.rank)

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Token]:
        """See Runner."""
        for span in batch:
            if span.start == span.sequence.num_cached:
                self._begin(span.sequence)
        places = [self.cache.place(span.sequence.row, span.start, span.count) for span in batch]
        ids = [token_id for span in batch for token_id in span.sequence.ids[span.start : span.end]]
        logits = self.model.forward(ids, places, last_rows(batch))
        return self.sampler.sample(logits, [span.sequence for span in batch if span.samples])

    def release(self, row: int) -> None:
        """See Runner."""
        self.cache.release(row)

    def held_rows(self) -> set[int]:
        """See Runner."""
        return self.cache.rows

    def _begin(self, sequence: Sequence) -> None:
        source = sequence.match.prefix.row if sequence.match else -1
        self.cache.begin(sequence.row, sequence.num_reserved, source, sequence.num_cached)


def last_rows(batch: Batch) -> list[int]:
    """Rows of the batch's tokens at which the spans that sample end."""
    rows, end = [], 0
    for span in batch:
        end += span.count
        if span.samples:
            rows.append(end - 1)
    return rows
