"""Prefilling on CUDA: tokens of some prompts side by side, as a recorded step."""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from index_grpc.cuda.pool import BlockPool
from index_grpc.cuda.prefill_attention import QUERIES, Tokens, programs_of
from index_grpc.cuda.sampling import Draws, draw
from index_grpc.engine.cuda.drawing import draw_from_all, drawn_by_kernels
from index_grpc.engine.cuda.graphs import Graphs, Work
from index_grpc.engine.cuda.inputs import Inputs, as_ints
from index_grpc.engine.cuda.shapes import MOST_PROMPTS, Shapes, at_least, prefill_sizes
from index_grpc.engine.cuda.slots import Slots
from index_grpc.engine.cuda.step import Part
from index_grpc.engine.sequence import Span
from index_grpc.model.cuda import CudaLlama
from index_grpc.model.drawing import uniform


class Prefilling:
    """Computes tokens of some prompts side by side."""

    def __init__(
        self, model: CudaLlama, cache: BlockPool, slots: Slots, graphs: Graphs, shapes: Shapes, chunk_tokens: int
    ) -> None:
        self._model, self._cache, self._slots = model, cache, slots
        self._graphs, self._shapes, self._sizes = graphs, shapes, prefill_sizes(chunk_tokens)
        tokens = dict.fromkeys(("ids", "slots", "positions"), chunk_tokens)
        sampled = dict.fromkeys(("ends", "sampled_slots", "samples", "numbers"), chunk_tokens)
        self._inputs = Inputs(model.device, **tokens, **sampled, programs=4 * chunk_tokens)
        self._drawn = torch.zeros(chunk_tokens, dtype=torch.int32, device=model.device)
        self._logits = torch.empty(MOST_PROMPTS, model.config.vocab_size, device=model.device)
        for size in reversed(self._sizes):
            num_spans = min(size, MOST_PROMPTS)
            self._send([], size, num_spans)
            graphs.add(("prefill", size), self._work(size, num_spans))

    def launch(self, spans: list[Span]) -> Part:
        """Begins to compute the spans: logits of each one's last token, and a drawn token for each that samples."""
        size = at_least(sum(span.count for span in spans), self._sizes)
        recorded = min(size, MOST_PROMPTS)
        if len(spans) <= recorded:
            self._send(spans, size, recorded)
            logits = self._graphs.run(("prefill", size))
        else:
            self._send(spans, size, len(spans))
            logits = self._work(size, len(spans))()
        draw_from_all(logits, spans, self._slots, self._drawn)
        return Part(spans, self._drawn, logits)

    def _work(self, size: int, num_spans: int) -> Work:
        of, slots, num_programs = self._inputs.of, self._slots, _num_programs(size, num_spans)

        def work() -> Tensor:
            tokens = Tokens(
                of("slots", size), of("positions", size), of("programs", 2 * num_programs).view(num_programs, 2)
            )
            numbers = of("numbers", num_spans).view(torch.float32)
            draws = Draws(of("sampled_slots", num_spans), numbers, of("samples", num_spans))
            logits = self._logits[:num_spans] if num_spans <= MOST_PROMPTS else self._more_logits(num_spans)
            step = (of("ids", size), tokens, of("ends", num_spans), self._cache, self._shapes.prefill(size))
            self._model.prefill(*step, logits)
            draw(logits, draws, slots.state, self._drawn[:num_spans])
            return logits

        return work

    def _more_logits(self, num_spans: int) -> Tensor:
        return self._logits.new_empty(num_spans, self._logits.shape[1])

    def _send(self, spans: list[Span], size: int, num_spans: int) -> None:
        counts = [span.count for span in spans]
        unused, unsampled, programs = size - sum(counts), num_spans - len(spans), programs_of(counts)
        nobody, idle = self._slots.nobody, _num_programs(size, num_spans) - len(programs)
        slots = [span.sequence.slot for span in spans]
        self._inputs.send(
            ids=[token_id for span in spans for token_id in span.sequence.ids[span.start : span.end]] + [0] * unused,
            slots=np.repeat([*slots, nobody], [*counts, unused]),
            positions=[place for span in spans for place in range(span.start, span.end)] + [0] * unused,
            ends=[end - 1 for end in accumulate(counts)] + [0] * unsampled,
            sampled_slots=slots + [nobody] * unsampled,
            samples=[drawn_by_kernels(span) for span in spans] + [0] * unsampled,
            numbers=as_ints([uniform(span.sequence.request.sampling.seed, span.step) for span in spans]),
            programs=[number for program in programs for number in program] + [0, 0] * idle,
        )


def _num_programs(size: int, num_spans: int) -> int:
    """Returns the most programs that `size` tokens need: the last one of each span may be nearly empty."""
    return size // QUERIES + num_spans
