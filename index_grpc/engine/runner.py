"""Everything that touches the device happens here: a batch in, the next tokens out."""

import torch

from index_grpc.contract import Token
from index_grpc.engine.cache import RowCache
from index_grpc.engine.sampler import Sampler
from index_grpc.engine.sequence import Batch
from index_grpc.model.llama import Llama


class ModelRunner:
    """The loop's Runner for a Llama: a cache of contiguous rows and a sampler."""

    def __init__(self, model: Llama, max_sequences: int) -> None:
        self.model, self.rows_independent = model, model.rows_independent
        self.cache = RowCache(model.config, model.device, model.dtype)
        self.sampler = Sampler(max_sequences, model.config.vocab_size, model.device)

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Token]:
        """See Runner."""
        for span in batch:
            if span.start == span.sequence.num_cached:
                self.sampler.open(span.sequence)
        ids = [token_id for span in batch for token_id in span.sequence.ids[span.start : span.end]]
        positions = [position for span in batch for position in range(span.start, span.end)]
        hidden = self.model.forward(self._tensor(ids), self._tensor(positions), self.cache.attend(batch))
        sampling = [span.sequence for span in batch if span.samples]
        if not sampling:
            return []
        return self.sampler.sample(self.model.logits(hidden[self._tensor(last_rows(batch))]), sampling)

    def release(self, row: int) -> None:
        """See Runner."""
        self.cache.release(row)

    def held_rows(self) -> set[int]:
        """See Runner."""
        return set(self.cache.rows)

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=self.model.device)


def last_rows(batch: Batch) -> list[int]:
    """Rows of the batch's tokens at which the spans that sample end."""
    rows, end = [], 0
    for span in batch:
        end += span.count
        if span.samples:
            rows.append(end - 1)
    return rows
