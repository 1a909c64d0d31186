"""The shapes of recorded steps, and the tiles of their matrix products."""

from collections.abc import Sequence

import torch

from index_grpc.cuda.linear import FEW_ROWS, Tiles
from index_grpc.model.card import Card
from index_grpc.model.cuda import Products

MOST_PROMPTS = 64
"""The most prompts whose last tokens a recorded prefill step can sample."""


def decode_sizes(max_sequences: int) -> list[int]:
    """Returns the numbers of rows for which decode steps are recorded."""
    sizes = [1, 2, 4, 8, 16, 32, 48, 64, 96, *range(128, 1025, 64)]
    return [size for size in sizes if size < max_sequences] + [max_sequences]


def prefill_sizes(chunk_tokens: int) -> list[int]:
    """Returns the numbers of tokens for which prefill steps are recorded."""
    sizes = [16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536]
    return [size for size in sizes if size < chunk_tokens] + [chunk_tokens]


def at_least(size: int, sizes: Sequence[int]) -> int:
    """Returns the first of the ascending sizes that is at least `size`."""
    return next(one for one in sizes if one >= size)


class Shapes:
    """Chooses tiles by the number of rows, for one dtype on one GPU."""

    def __init__(self, dtype: torch.dtype, card: Card) -> None:
        self._is_narrow = dtype != torch.float32
        self._card = card

    def decode(self, num_rows: int) -> Products:
        """Returns the tiles of a decode step of `num_rows` rows."""
        if not self._is_narrow:
            return Products(*[_plain(num_rows)] * 5)
        if num_rows <= FEW_ROWS:
            rows = 1 << (num_rows - 1).bit_length()
            short = Tiles(rows, 8, 256) if rows <= 4 else Tiles(rows, 16, 128)
            long = Tiles(rows, 8, min(256, 1024 // rows))  # as many inputs as registers hold three times over
            return Products(short, short, short, long, short)
        if self._card.has_tensor_memory:  # Triton cannot compile sliced sums that use it
            return Products(*[Tiles(32, 64, 128, 4, 3)] * 5)
        if not self._card.is_large:
            return Products(*[Tiles(64, 32, 64, 4, 3)] * 5)
        thin, wide = Tiles(64, 16, 128, 4, 6), Tiles(64, 64, 128, 4, 4)
        if num_rows <= 64:
            return Products(wide, thin, wide, thin, Tiles(64, 64, 128, 4, 3))
        tall = Tiles(128, 64, 128, 8, 3)
        return Products(tall, thin, tall, thin, Tiles(128, 64, 64, 4, 4))

    def prefill(self, num_tokens: int) -> Tiles:
        """Returns the tiles of a prefill step of `num_tokens` tokens."""
        if not self._is_narrow:
            return _plain(num_tokens)
        if not self._card.is_large:
            return Tiles(64, 64, 32, 4, 3)
        if num_tokens <= 64:
            return Tiles(64, 32, 128, 4, 4)
        return Tiles(64, 128, 64, 4, 4) if num_tokens <= 512 else Tiles(128, 128, 64, 8, 4)


def _plain(num_rows: int) -> Tiles:
    """Returns tiles for float32 without tensor cores, whose float32 is not exact."""
    return Tiles(min(16, 1 << (num_rows - 1).bit_length()), 16, 32, 4, 2)
