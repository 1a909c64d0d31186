"""The runner for models on processors: a batch in, the next tokens out."""

from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import Tensor

from index_grpc.contract import Copy
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.sampler import Sampler
from index_grpc.engine.sequence import Batch, Span
from index_grpc.model.config import ModelConfig
from index_grpc.model.drawing import SlotTable


class Cache(Protocol):
    """Keys and values in blocks by number; the kind of its places is known to its model only."""

    def place(self, blocks: Items[int], start: int, count: int) -> Any:  # noqa: ANN401 - the model's own
        """Where the next tokens of a sequence that stands in these blocks are to stand: from position `start` on."""

    def copy(self, copy: Copy) -> None:
        """Has the first positions of a block stand in another one too."""


class Computes(Protocol):
    """What is known of any model that is ready to compute."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    engine: str
    """What computes, for people."""
    rows_independent: bool
    """Whether tokens computed together get the same bits as alone."""
    cuts_independent: bool
    """Whether a token's bits are the same however its prompt is cut into parts that are computed together."""
    answers_like_prompts: bool
    """Whether a token's bits are the same as part of an answer, one at a time, and as part of a prompt."""
    block_tokens: int
    """Positions of its cache's blocks."""


class Model(Computes, Protocol):
    """What the runner needs of a model: `TorchLlama`, or `NativeLlama`."""

    def new_cache(self) -> Cache:
        """An empty cache of this model's kind."""

    def forward(self, token_ids: Items[int], places: Items[Any], sampled: Items[int]) -> Tensor:
        """Logits [S, vocab_size] after the S different tokens that `sampled` numbers, in ascending order.

        They are valid until the next call.
        """

    def draw(self, logits: Tensor, table: SlotTable, slots: Items[int], steps: Items[int]) -> list[int]:
        """The next tokens where few candidates are left; see Draw."""


class CpuRunner:
    """The loop's Runner for a model: its cache and a sampler."""

    run_ahead = 0

    def __init__(self, model: Model, max_sequences: int) -> None:
        self.model, self.rows_independent = model, model.rows_independent
        self.cache = model.new_cache()
        self.sampler = Sampler(max_sequences, model.config.vocab_size, model.device, model.draw)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Computed:
        """See Runner. Computes at once."""
        for copy in batch.copies:
            self.cache.copy(copy)
        places = [self.cache.place(span.sequence.blocks, span.start, span.count) for span in batch.spans]
        ids = [token_id for span in batch.spans for token_id in span.sequence.ids[span.start : span.end]]
        logits = self.model.forward(ids, places, last_rows(batch.spans))
        return Computed(self.sampler.sample(logits, [span.sequence for span in batch.spans if span.samples]))


def last_rows(spans: Items[Span]) -> list[int]:
    """Rows of the spans' tokens at which those that sample end."""
    rows, end = [], 0
    for span in spans:
        end += span.count
        if span.samples:
            rows.append(end - 1)
    return rows
