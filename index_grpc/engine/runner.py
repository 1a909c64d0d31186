"""Everything that touches the device happens here: a batch in, the next tokens out."""

from collections.abc import Sequence as Items
from typing import Protocol

import torch
from torch import Tensor

from index_grpc.contract import Token
from index_grpc.engine.cache import RowCache
from index_grpc.engine.sampler import Sampler
from index_grpc.engine.sequence import Batch
from index_grpc.model.config import ModelConfig
from index_grpc.model.places import Place
from index_grpc.model.ranking import History, Wish


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

    def forward(self, token_ids: Items[int], places: Items[Place], sampled: Items[int]) -> Tensor:
        """Logits [S, vocab_size] after the S tokens that `sampled` numbers; see Llama.forward."""

    def rank(self, logits: Tensor, history: History, wishes: Items[Wish]) -> tuple[Tensor, Tensor]:
        """The likeliest tokens; see Rank."""


class ModelRunner:
    """The loop's Runner for a model: a cache of contiguous rows and a sampler."""

    def __init__(self, model: Model, max_sequences: int) -> None:
        self.model, self.rows_independent = model, model.rows_independent
        self.cache = RowCache(model.config, model.device, model.dtype)
        self.sampler = Sampler(max_sequences, model.config.vocab_size, model.device, model.rank)

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Token]:
        """See Runner."""
        for span in batch:
            if span.start == span.sequence.num_cached:
                self.sampler.open(span.sequence)
        ids = [token_id for span in batch for token_id in span.sequence.ids[span.start : span.end]]
        logits = self.model.forward(ids, self.cache.places(batch), last_rows(batch))
        return self.sampler.sample(logits, [span.sequence for span in batch if span.samples])

    def release(self, row: int) -> None:
        """See Runner."""
        self.cache.release(row)

    def held_rows(self) -> set[int]:
        """See Runner."""
        return set(self.cache.rows)


def last_rows(batch: Batch) -> list[int]:
    """Rows of the batch's tokens at which the spans that sample end."""
    rows, end = [], 0
    for span in batch:
        end += span.count
        if span.samples:
            rows.append(end - 1)
    return rows
