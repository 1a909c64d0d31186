"""Matrix products whose rows do not depend on each other.

A server computes the tokens of many callers as the rows of one matrix. The usual product picks its kernel by the
number of rows, so a row's last bits, and with them a sampled token, would depend on the other callers. The products
here give each row the same bits in any batch; `rows_are_independent` tests that on the present machine before they are
used.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Linear = Callable[[Tensor], Tensor]
"""[rows, in_features] → [rows, out_features]."""

LinearKind = Callable[[Tensor], Linear]
"""A weight [out_features, in_features] → the product with it."""

LEAST_ROWS = 4
FIXED_ROWS = 64


def packed_linear(weight: Tensor) -> Linear:
    """Returns oneDNN's product with a weight packed once for this CPU, for float32.

    One to three rows are padded to four: for fewer oneDNN uses slower kernels that give other last bits.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    multiply = torch.ops.mkldnn._linear_pointwise

    def linear(rows: Tensor) -> Tensor:
        num_rows = rows.shape[0]
        padded = rows if num_rows >= LEAST_ROWS else functional.pad(rows, (0, 0, 0, LEAST_ROWS - num_rows))
        result: Tensor = multiply(padded, packed, None, "none", [], "")
        return result[:num_rows]

    return linear


def fixed_rows_linear(weight: Tensor) -> Linear:
    """Returns the usual product over parts of FIXED_ROWS rows; it pads the last part, so the kernel never changes."""
    weight = weight.contiguous()

    def linear(rows: Tensor) -> Tensor:
        num_rows = rows.shape[0]
        padded = functional.pad(rows, (0, 0, 0, -num_rows % FIXED_ROWS))
        parts = [functional.linear(part, weight) for part in padded.split(FIXED_ROWS)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[:num_rows]

    return linear


def linear_kinds(device: torch.device, dtype: torch.dtype) -> list[LinearKind]:
    """Returns the kinds that may work here, fastest first."""
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return [packed_linear, fixed_rows_linear]
    return [fixed_rows_linear]


def agrees(kind: LinearKind, weight: Tensor) -> bool:
    """Returns whether the kind's product with the weight is right within rounding; False if it cannot run at all."""
    rows = _random_rows(5, weight)
    expected = functional.linear(rows.double(), weight.double())
    try:
        error = (kind(weight)(rows) - expected).norm() / expected.norm()
    except (AttributeError, RuntimeError, NotImplementedError):  # a private operator may be missing or refuse
        return False
    return bool(error < (1e-5 if weight.dtype == torch.float32 else 2e-2))


def rows_are_independent(function: Linear, in_features: int, like: Tensor, most_rows: int) -> bool:
    """Tests whether a row's result is the same bit for bit at every place in batches of 1 to `most_rows` rows."""
    rows = _random_rows(most_rows, like, in_features)
    whole = function(rows)
    sizes = sorted({min(size, most_rows) for size in (1, 2, 3, 4, 5, 8, 13, 16, 17, 32, 33, 48, 64, 65, 96, most_rows)})
    heads = all(torch.equal(function(rows[:size]), whole[:size]) for size in sizes)
    return heads and all(torch.equal(function(rows[-size:]), whole[-size:]) for size in sizes)


def _random_rows(num_rows: int, like: Tensor, in_features: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(num_rows, in_features or like.shape[1], generator=generator)
    return rows.to(like.device, like.dtype)
