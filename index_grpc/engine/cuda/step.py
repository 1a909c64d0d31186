"""A step in flight on the device, and its results."""

import torch
from torch import Tensor

from index_grpc.cuda.sampling import NOT_A_NUMBER
from index_grpc.datatypes import Token
from index_grpc.engine.cuda.drawing import Logprobs
from index_grpc.engine.cuda.lost import lost_device_told
from index_grpc.engine.sequence import Span


class Part:
    """Spans of a step that are computed together, and the tokens that the device draws for them."""

    def __init__(self, spans: list[Span], drawn: Tensor, logits: Tensor) -> None:
        self._spans, self._logprobs = spans, Logprobs.of(logits, drawn, spans)
        self._drawn = torch.empty(len(spans), dtype=torch.int32, pin_memory=drawn.device.type == "cuda")
        self._drawn.copy_(drawn[: len(spans)], non_blocking=True)

    def tokens(self) -> dict[Span, Token | Exception]:
        """Returns a token or an error for each span that samples. Call it once the device is done."""
        drawn: list[int] = self._drawn.tolist()
        told = self._logprobs.tokens(drawn, self._spans)
        return {span: _token(drawn[row], told.get(row)) for row, span in enumerate(self._spans) if span.samples}


def _token(token_id: int, told: Token | None) -> Token | Exception:
    if token_id == NOT_A_NUMBER:
        return FloatingPointError("the model's output is not a number")
    return told or Token(token_id)


class Step:
    """A step in flight."""

    def __init__(self, spans: list[Span], parts: list[Part], device: torch.device) -> None:
        self._spans, self._parts = spans, parts
        self._done = torch.cuda.Event() if device.type == "cuda" else None
        if self._done:
            self._done.record()

    @lost_device_told()
    def wait(self) -> list[Token | Exception]:
        """See Launched."""
        if self._done:
            self._done.synchronize()
        tokens = {span: token for part in self._parts for span, token in part.tokens().items()}
        return [tokens[span] for span in self._spans if span.samples]
