"""The runner on CPUs: computes a batch and draws the next tokens."""

from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import Tensor

from index_grpc.datatypes import Copy
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.sampler import Sampler
from index_grpc.engine.sequence import Batch, Span
from index_grpc.model.config import ModelConfig
from index_grpc.model.drawing import SlotTable


class Cache(Protocol):
    """Keys and values in numbered blocks. Only its model knows the type of its places."""

    def place(self, blocks: Items[int], start: int, count: int) -> Any:  # noqa: ANN401 - each model has its own type
        """Returns the place, in a sequence's blocks, of its next `count` tokens from position `start` on."""

    def copy(self, copy: Copy) -> None:
        """Copies the first positions of a block to another one."""


class Computes(Protocol):
    """The properties of every model that is ready to compute."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    software: str
    """Name of the software that computes, for people to read."""
    arithmetic: str
    """What computes, as precisely as the last bits of its results depend on it."""
    weights_digest: str
    """A digest of the checkpoint's weights; see WeightSamples."""
    rows_independent: bool
    """Whether tokens computed together get the same bits as alone."""
    cuts_independent: bool
    """Whether a token's bits are the same however its prompt is cut into chunks."""
    answers_like_prompts: bool
    """Whether a token's bits are the same when decoded, one at a time, as when prefilled in a chunk."""
    block_tokens: int
    """Positions of a block of its cache."""


class Model(Computes, Protocol):
    """What the runner needs from a model: `TorchLlama` or `NativeLlama`."""

    def new_cache(self) -> Cache:
        """Returns an empty cache of this model's type."""

    def forward(self, token_ids: Items[int], places: Items[Any], sampled: Items[int]) -> Tensor:
        """Returns the logits [S, vocab_size] after S tokens. `sampled` has their different, ascending row numbers.

        The logits are valid until the next call.
        """

    def draw(self, logits: Tensor, table: SlotTable, slots: Items[int], steps: Items[int]) -> list[int]:
        """Returns the next tokens; see Draw."""


class CpuRunner:
    """The loop's Runner for a model on a CPU: holds the model's cache and a sampler."""

    run_ahead = 0

    def __init__(self, model: Model, max_sequences: int) -> None:
        self.model, self.rows_independent = model, model.rows_independent
        self.cache = model.new_cache()
        self.sampler = Sampler(max_sequences, model.config.vocab_size, model.device, model.draw)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Computed:
        """See Runner. Computes the step before it returns."""
        for copy in batch.copies:
            self.cache.copy(copy)
        places = [self.cache.place(span.sequence.blocks, span.start, span.count) for span in batch.spans]
        ids = [token_id for span in batch.spans for token_id in span.sequence.ids[span.start : span.end]]
        logits = self.model.forward(ids, places, last_rows(batch.spans))
        return Computed(self.sampler.sample(logits, [span.sequence for span in batch.spans if span.samples]))


def last_rows(spans: Items[Span]) -> list[int]:
    """Returns, for each span that samples, the row of its last token among the rows of all spans."""
    rows, end = [], 0
    for span in spans:
        end += span.count
        if span.samples:
            rows.append(end - 1)
    return rows
