"""A step under way on the device, and what comes of it."""

import torch
from torch import Tensor

from index_grpc.contract import Token
from index_grpc.cuda.sampling import NOT_A_NUMBER
from index_grpc.engine.device.drawing import Logprobs
from index_grpc.engine.sequence import Span


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
        tokens = {span: token for part in self._parts for span, token in part.tokens().items()}
        return [tokens[span] for span in self._spans if span.samples]
