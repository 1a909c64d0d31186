"""The runner on CUDA: computes a batch as up to two recorded steps, one for prefill and one for decode.

Only `Step.wait` waits for the device, so the next step is prepared while the last one runs. The device itself reads the
token ids that the host does not know yet, from where it drew them.
"""

import logging

import torch

from index_grpc.engine.cuda.decoding import Decoding
from index_grpc.engine.cuda.graphs import Graphs
from index_grpc.engine.cuda.lost import lost_device_told
from index_grpc.engine.cuda.prefilling import Prefilling
from index_grpc.engine.cuda.shapes import Shapes
from index_grpc.engine.cuda.slots import Slots
from index_grpc.engine.cuda.step import Step
from index_grpc.engine.sequence import Batch
from index_grpc.model.cuda import CudaLlama

log = logging.getLogger(__name__)


class CudaRunner:
    """The loop's Runner on CUDA."""

    run_ahead = 1

    def __init__(self, model: CudaLlama, max_sequences: int, num_blocks: int, chunk_tokens: int) -> None:
        self.model, self.device, self.rows_independent = model, model.device, model.rows_independent
        self._select_device()
        self.cache = model.new_cache(num_blocks, max_sequences + 1)
        self.slots = Slots(max_sequences, model.config.vocab_size, self.cache, self.device)
        common = (model, self.cache, self.slots, Graphs(self.device), Shapes(model.dtype, model.card))
        log.info("compiling kernels and recording steps; the first time takes about a minute")
        with torch.inference_mode():
            self._decoding = Decoding(*common)
            self._prefilling = Prefilling(*common, chunk_tokens)

    @lost_device_told()
    @torch.inference_mode()
    def launch(self, batch: Batch) -> Step:
        """See Runner."""
        self._select_device()
        try:
            return self._launch(batch)
        except Exception:
            self._let_end()
            raise

    def _launch(self, batch: Batch) -> Step:
        for copy in batch.copies:
            self.cache.copy(copy)
        self.slots.update(batch.spans)
        prompts = [span for span in batch.spans if span.start < span.sequence.num_prefill]
        answers = [span for span in batch.spans if span.start >= span.sequence.num_prefill]
        parts = []
        if prompts:
            parts.append(self._prefilling.launch(prompts))
        if answers:
            parts.append(self._decoding.launch(answers))
        return Step(batch.spans, parts, self.device)

    def _let_end(self) -> None:
        """Waits for what a failed launch has begun; later ones overwrite host buffers that it may still read."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _select_device(self) -> None:
        """Makes our device the one on which this thread launches kernels and events; tensors do not decide that."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
