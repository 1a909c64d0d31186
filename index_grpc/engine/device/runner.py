"""Runs batches on CUDA: prompts' tokens and answers' tokens each as one recorded step.

Nothing here waits for the device but `Step.wait`: the next step is prepared while the last one runs. Token ids that the
host does not know yet are read by the device from where it drew them.
"""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from index_grpc.contract import Token
from index_grpc.cuda.decode_attention import Rows, Scratch, num_splits
from index_grpc.cuda.embedding import DRAWN_LAST
from index_grpc.cuda.pool import BlockPool
from index_grpc.cuda.prefill_attention import QUERIES, Tokens
from index_grpc.cuda.sampling import NOT_A_NUMBER, Draws, draw
from index_grpc.engine.device.drawing import Logprobs, draw_from_all
from index_grpc.engine.device.graphs import Graphs, Work
from index_grpc.engine.device.inputs import Inputs, as_ints
from index_grpc.engine.device.shapes import MOST_PROMPTS, Shapes, at_least, decode_sizes, prefill_sizes, shared_bytes
from index_grpc.engine.device.slots import Slots, is_narrow
from index_grpc.engine.sampler import uniform
from index_grpc.engine.sequence import Batch, Span
from index_grpc.model.cuda import CudaLlama


class Part:
    """Spans of a step that are computed together, and what the device draws for them."""

    def __init__(self, spans: list[Span], drawn: Tensor, logits: Tensor) -> None:
        self.spans = spans
        wanted = [span.sequence.request for span in spans]
        self._logprobs = [
            Logprobs.of(logits[row], drawn[row], request.top_logprobs)
            if request.logprobs and spans[row].samples
            else None
            for row, request in enumerate(wanted)
        ]
        self._drawn = torch.empty(len(spans), dtype=torch.int32, pin_memory=drawn.device.type == "cuda")
        self._drawn.copy_(drawn[: len(spans)], non_blocking=True)

    def tokens(self) -> dict[Span, Token | Exception]:
        """By span, once the device is done."""
        return {
            span: _token(token_id, logprobs)
            for span, token_id, logprobs in zip(self.spans, self._drawn.tolist(), self._logprobs, strict=True)
            if span.samples
        }


def _token(token_id: int, logprobs: Logprobs | None) -> Token | Exception:
    if token_id == NOT_A_NUMBER:
        return FloatingPointError("the model's output is not a number")
    return logprobs.token(token_id) if logprobs else Token(token_id)


class Step:
    """A step under way."""

    def __init__(self, spans: list[Span], parts: list[Part], device: torch.device) -> None:
        self._spans, self._parts = spans, parts
        self._done = torch.cuda.Event() if device.type == "cuda" else None
        if self._done:
            self._done.record()

    def wait(self) -> list[Token | Exception]:
        """See Launched."""
        if self._done:
            self._done.synchronize()
        tokens = {id(span): token for part in self._parts for span, token in part.tokens().items()}
        return [tokens[id(span)] for span in self._spans if span.samples]


class Decoding:
    """One token of each of some sequences."""

    def __init__(self, model: CudaLlama, cache: BlockPool, slots: Slots, graphs: Graphs, shapes: Shapes) -> None:
        config, num_slots, device = model.config, slots.nobody, model.device
        self._slots, self._graphs, self._sizes = slots, graphs, decode_sizes(num_slots)
        self._scratch = Scratch(num_slots, config.num_heads, config.head_dim, config.context_length, device)
        self._splits = self._scratch.splits
        rows = dict.fromkeys(("ids", "slots", "positions", "samples", "numbers"), num_slots)
        self._inputs = Inputs(device, **rows, num_items=1, items=num_slots * self._splits)
        self._drawn = torch.zeros(num_slots, dtype=torch.int32, device=device)

        def record(size: int) -> None:
            def work() -> Tensor:
                of = self._inputs.of
                items = (of("items", size * self._splits), of("num_items", 1))
                rows = Rows(of("slots", size), of("positions", size), *items)
                draws = Draws(rows.slots, of("numbers", size).view(torch.float32), of("samples", size))
                products = shapes.decode(size)
                logits = model.decode(of("ids", size), rows, slots.state.last_ids, cache, self._scratch, products)
                draw(logits, draws, slots.state, self._drawn[:size], model.overlaps)
                return logits

            graphs.add(("decode", size), work)

        self._send([], max(self._sizes))
        for size in reversed(self._sizes):
            record(size)

    def launch(self, spans: list[Span]) -> Part:
        """Begins to compute the next token of each span's sequence."""
        size = at_least(len(spans), self._sizes)
        self._send(spans, size)
        logits = self._graphs.run(("decode", size))
        draw_from_all(logits, spans, self._slots, self._drawn)
        return Part(spans, self._drawn, logits)

    def _send(self, spans: list[Span], size: int) -> None:
        unused = size - len(spans)
        ids = [span.sequence.ids[span.start] if span.known else DRAWN_LAST for span in spans]
        items = [row * self._splits + split for row, span in enumerate(spans) for split in range(num_splits(span.end))]
        self._inputs.send(
            ids=ids + [0] * unused,
            slots=[span.sequence.slot for span in spans] + [self._slots.nobody] * unused,
            positions=[span.start for span in spans] + [-1] * unused,
            samples=[drawn_by_kernels(span) for span in spans] + [0] * unused,
            numbers=as_ints([uniform(span.sequence.request.sampling.seed, span.step) for span in spans]),
            num_items=[len(items)],
            items=items,
        )


class Prefilling:
    """Tokens of some prompts, side by side."""

    def __init__(
        self, model: CudaLlama, cache: BlockPool, slots: Slots, graphs: Graphs, shapes: Shapes, chunk_tokens: int
    ) -> None:
        self._model, self._cache, self._slots = model, cache, slots
        self._graphs, self._shapes, self._sizes = graphs, shapes, prefill_sizes(chunk_tokens)
        tokens = dict.fromkeys(("ids", "slots", "positions"), chunk_tokens)
        sampled = dict.fromkeys(("ends", "sampled_slots", "samples", "numbers"), chunk_tokens)
        self._inputs = Inputs(model.device, **tokens, **sampled, tiles=4 * chunk_tokens)
        self._drawn = torch.zeros(chunk_tokens, dtype=torch.int32, device=model.device)
        for size in reversed(self._sizes):
            self._send([], size, min(size, MOST_PROMPTS), _num_tiles(size))
            graphs.add(("prefill", size), self._work(size, min(size, MOST_PROMPTS), _num_tiles(size)))

    def launch(self, spans: list[Span]) -> Part:
        """Begins to compute the spans. A token is drawn for each, wanted or not."""
        size = at_least(sum(span.count for span in spans), self._sizes)
        most, tiles = min(size, MOST_PROMPTS), _tiles(spans)
        if len(spans) <= most and len(tiles) <= _num_tiles(size):
            self._send(spans, size, most, _num_tiles(size))
            logits = self._graphs.run(("prefill", size))
        else:
            self._send(spans, size, len(spans), len(tiles))
            logits = self._work(size, len(spans), len(tiles))()
        draw_from_all(logits, spans, self._slots, self._drawn)
        return Part(spans, self._drawn, logits)

    def _work(self, size: int, num_spans: int, num_tiles: int) -> Work:
        of, slots = self._inputs.of, self._slots

        def work() -> Tensor:
            tokens = Tokens(of("slots", size), of("positions", size), of("tiles", 2 * num_tiles).view(num_tiles, 2))
            numbers = of("numbers", num_spans).view(torch.float32)
            draws = Draws(of("sampled_slots", num_spans), numbers, of("samples", num_spans))
            tiles = self._shapes.prefill(size)
            logits = self._model.prefill(of("ids", size), tokens, of("ends", num_spans), self._cache, tiles)
            draw(logits, draws, slots.state, self._drawn[:num_spans])
            return logits

        return work

    def _send(self, spans: list[Span], size: int, num_spans: int, num_tiles: int) -> None:
        counts = [span.count for span in spans]
        unused, unsampled, tiles = size - sum(counts), num_spans - len(spans), _tiles(spans)
        nobody = self._slots.nobody
        slots = [span.sequence.slot for span in spans]
        self._inputs.send(
            ids=[token_id for span in spans for token_id in span.sequence.ids[span.start : span.end]] + [0] * unused,
            slots=np.repeat([*slots, nobody], [*counts, unused]),
            positions=[place for span in spans for place in range(span.start, span.end)] + [0] * unused,
            ends=[end - 1 for end in accumulate(counts)] + [0] * unsampled,
            sampled_slots=slots + [nobody] * unsampled,
            samples=[drawn_by_kernels(span) for span in spans] + [0] * unsampled,
            numbers=as_ints([uniform(span.sequence.request.sampling.seed, span.step) for span in spans]),
            tiles=[number for tile in tiles for number in tile] + [0, 0] * (num_tiles - len(tiles)),
        )


def drawn_by_kernels(span: Span) -> bool:
    """Whether the recorded step draws a token for it."""
    return span.samples and is_narrow(span.sequence.request.sampling)


def _tiles(spans: list[Span]) -> list[tuple[int, int]]:
    """First token and count of each program of the attention of prompts."""
    tiles, first = [], 0
    for span in spans:
        tiles += [(first + start, min(QUERIES, span.count - start)) for start in range(0, span.count, QUERIES)]
        first += span.count
    return tiles


def _num_tiles(size: int) -> int:
    """Programs of a recorded step of so many tokens."""
    return size // QUERIES + MOST_PROMPTS


class DeviceRunner:
    """The loop's Runner on CUDA."""

    rows_independent = True
    run_ahead = 1

    def __init__(self, model: CudaLlama, max_sequences: int, num_blocks: int, chunk_tokens: int) -> None:
        self.model, self.device = model, model.device
        self.cache = model.new_cache(num_blocks, max_sequences + 1)
        self.slots = Slots(max_sequences, model.config.vocab_size, self.cache, self.device)
        shapes = Shapes(model.dtype, shared_bytes(self.device))
        common = (model, self.cache, self.slots, Graphs(self.device), shapes)
        with torch.inference_mode():
            self._decoding = Decoding(*common)
            self._prefilling = Prefilling(*common, chunk_tokens)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Step:
        """See Runner."""
        for copy in batch.copies:
            self.cache.copy(copy.source, copy.target, copy.num_tokens)
        self.slots.update(batch.spans)
        prompts = [span for span in batch.spans if span.start < span.sequence.num_prefill]
        answers = [span for span in batch.spans if span.start >= span.sequence.num_prefill]
        parts = []
        if prompts:
            parts.append(self._prefilling.launch(prompts))
        if answers:
            parts.append(self._decoding.launch(answers))
        return Step(batch.spans, parts, self.device)
