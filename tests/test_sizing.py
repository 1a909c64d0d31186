"""Sizes in words: from a few conversations of a tiny model to a card's memory."""

import pytest

from index_grpc.loading.sizing import in_units


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (18_874_368, "18.0 MiB"), (1.5 * 2**40, "1536.0 GiB")],
)
def test_a_size_keeps_its_digits(num_bytes: float, words: str) -> None:
    assert in_units(num_bytes) == words
