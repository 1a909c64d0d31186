"""Attention with PyTorch: each sequence attends to its own row at its exact length.

So the other sequences of a batch neither slow it down nor change its result. L is the number of tokens in a row, n the
number of tokens of a place; T, H, K and D are as in `llama.py`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from index_grpc.model.rows import RowPlace

Attend = Callable[[int, Tensor, Tensor], Tensor]
"""(layer, queries [T, H, D], keys and values [T, 2, K, D]) → [T, H, D]."""


def attention(places: Sequence[RowPlace], grouped: bool) -> Attend:
    """Returns attention for a batch's tokens in order: it stores their keys and values, then attends to each row.

    `grouped` tells whether several query heads share one key-value head.
    """
    masks = [None if place.count == 1 else _causal_mask(place) for place in places]

    def attend(layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
        attended = torch.empty_like(queries)
        # Views with the tokens in dimension 2, so that each sequence only needs to narrow them.
        looking, seen = queries.transpose(0, 1)[None], attended.transpose(0, 1)[None]  # [1, H, T, D]
        new = keys_values.permute(1, 2, 0, 3)  # [2, K, T, D]
        first = 0
        for place, mask in zip(places, masks, strict=True):
            row, count = place.row[layer], place.count
            row.narrow(2, place.start, count).copy_(new.narrow(2, first, count))
            keys, values = row.narrow(2, 0, place.end).unsqueeze(1).unbind()  # [1, K, L, D] each
            result = functional.scaled_dot_product_attention(
                looking.narrow(2, first, count), keys, values, attn_mask=mask, enable_gqa=grouped
            )
            seen.narrow(2, first, count).copy_(result)
            first += count
        return attended

    return attend


def _causal_mask(place: RowPlace) -> Tensor:
    """Returns [n, L], true where a token may attend; a single token needs no mask, as it may attend to all L."""
    allowed = torch.ones(place.count, place.end, dtype=torch.bool, device=place.row.device)
    return allowed.tril(diagonal=place.start)
