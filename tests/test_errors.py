"""The exceptions of the service: each passes from one process to another with all that it says."""

import pickle
from collections.abc import Iterator

import pytest

from index_grpc.errors import (
    IndexGrpcError,
    InvalidRequest,
    PromptTooLong,
    RateLimited,
    Unavailable,
    Violation,
    in_seconds,
)


def kinds(base: type[IndexGrpcError] = IndexGrpcError) -> Iterator[type[IndexGrpcError]]:
    """An error's class and all classes derived from it."""
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


def example(kind: type[IndexGrpcError]) -> IndexGrpcError:
    """An error of this class with every attribute that it may have."""
    if issubclass(kind, PromptTooLong):
        return kind(600, 512, at_least=True)
    if issubclass(kind, InvalidRequest):
        return kind(Violation("prompt", "is empty"), Violation("stop", "has 17 strings"), most=16)
    if issubclass(kind, RateLimited | Unavailable):
        return kind("come back", 2.5, key_name="a")
    return kind("it failed", number=3)


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_error_survives_pickling(kind: type[IndexGrpcError]) -> None:
    error = example(kind)
    copy = pickle.loads(pickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL))
    assert type(copy) is kind
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert copy.retry_after_seconds == error.retry_after_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (315_576_000_000.0, "315576000000.00 s"),
        (120.0, "120.00 s"),
        (12.341, "12.34 s"),
        (0.3, "0.30 s"),
        (0.01, "0.01 s"),
        (0.0095, "0.0095 s"),
        (0.0001, "0.0001 s"),
        (0.000038, "0.000038 s"),
        (1e-9, "0.000000001 s"),
        (0.0, "0 s"),
    ],
)
def test_a_time_that_is_not_zero_never_reads_as_zero_and_has_no_exponent(seconds: float, text: str) -> None:
    assert in_seconds(seconds) == text
