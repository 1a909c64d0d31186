"""What came of a step's spans."""

from index_grpc.contract import Token
from index_grpc.engine.sequence import Span

SpanOutcome = tuple[Span, Token | Exception | None]
"""What came of a span: a token, nothing if it does not sample, or why it failed."""


def paired(spans: list[Span], results: list[Token | Exception]) -> list[SpanOutcome]:
    """Each span with its own of the results, which are those of the spans that sample."""
    by_sequence = dict(zip([span.sequence for span in spans if span.samples], results, strict=True))
    return [(span, by_sequence.get(span.sequence)) for span in spans]
