"""The outcomes of a step's spans."""

from index_grpc.contract import Token
from index_grpc.engine.sequence import Span

SpanOutcome = tuple[Span, Token | Exception | None]
"""A span and its outcome: a token, None if it does not sample, or the error with which it failed."""


def paired(spans: list[Span], results: list[Token | Exception]) -> list[SpanOutcome]:
    """Pairs each span with its result. `results` belong, in order, to the spans that sample."""
    by_sequence = dict(zip([span.sequence for span in spans if span.samples], results, strict=True))
    return [(span, by_sequence.get(span.sequence)) for span in spans]
