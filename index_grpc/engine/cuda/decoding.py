"""Decoding on CUDA: one token of each of some sequences, as a recorded step."""

import torch
from torch import Tensor

from index_grpc.cuda.decode_attention import Rows, Scratch, work_items
from index_grpc.cuda.embedding import DRAWN_LAST
from index_grpc.cuda.pool import BlockPool
from index_grpc.cuda.sampling import Draws, draw
from index_grpc.engine.cuda.drawing import draw_from_all, drawn_by_kernels
from index_grpc.engine.cuda.graphs import Graphs, Work
from index_grpc.engine.cuda.inputs import Inputs, as_ints
from index_grpc.engine.cuda.shapes import Shapes, at_least, decode_sizes
from index_grpc.engine.cuda.slots import Slots
from index_grpc.engine.cuda.step import Part
from index_grpc.engine.sequence import Span
from index_grpc.model.cuda import CudaLlama
from index_grpc.model.drawing import uniform


class Decoding:
    """Computes one token of each of some sequences."""

    def __init__(self, model: CudaLlama, cache: BlockPool, slots: Slots, graphs: Graphs, shapes: Shapes) -> None:
        config, num_slots, device = model.config, slots.nobody, model.device
        self._model, self._cache, self._slots = model, cache, slots
        self._graphs, self._shapes, self._sizes = graphs, shapes, decode_sizes(num_slots)
        self._scratch = Scratch(num_slots, config.num_heads, config.head_dim, config.context_length, device)
        self._splits = self._scratch.splits
        rows = dict.fromkeys(("ids", "slots", "positions", "samples", "numbers"), num_slots)
        self._inputs = Inputs(device, **rows, num_items=1, items=num_slots * self._splits)
        self._drawn = torch.zeros(num_slots, dtype=torch.int32, device=device)
        self._logits = torch.empty(num_slots, config.vocab_size, device=device)

        self._send([], max(self._sizes))
        for size in reversed(self._sizes):
            graphs.add(("decode", size), self._work(size))

    def launch(self, spans: list[Span]) -> Part:
        """Begins to compute the next token of each span's sequence."""
        size = at_least(len(spans), self._sizes)
        self._send(spans, size)
        logits = self._graphs.run(("decode", size))
        draw_from_all(logits, spans, self._slots, self._drawn)
        return Part(spans, self._drawn, logits)

    def _work(self, size: int) -> Work:
        of, state, overlaps = self._inputs.of, self._slots.state, self._model.overlaps
        rows = Rows(of("slots", size), of("positions", size), of("items", size * self._splits), of("num_items", 1))
        draws = Draws(rows.slots, of("numbers", size).view(torch.float32), of("samples", size))
        step = (of("ids", size), rows, state.last_ids, self._cache, self._scratch, self._shapes.decode(size))

        def work() -> Tensor:
            logits = self._model.decode(*step, self._logits[:size])
            draw(logits, draws, state, self._drawn[:size], overlaps)
            return logits

        return work

    def _send(self, spans: list[Span], size: int) -> None:
        unused = size - len(spans)
        ids = [span.sequence.ids[span.start] if span.known else DRAWN_LAST for span in spans]
        items = work_items([span.end for span in spans], self._splits)
        self._inputs.send(
            ids=ids + [0] * unused,
            slots=[span.sequence.slot for span in spans] + [self._slots.nobody] * unused,
            positions=[span.start for span in spans] + [-1] * unused,
            samples=[drawn_by_kernels(span) for span in spans] + [0] * unused,
            numbers=as_ints([uniform(span.sequence.request.sampling.seed, span.step) for span in spans]),
            num_items=[len(items)],
            items=items,
        )
