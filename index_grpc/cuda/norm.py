"""The RMS norm. M is the number of rows, K their length."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.dependence import let_next_start, wait_for_previous

NUM_WARPS = 8
"""The order of a sum depends on the number of warps, so it is the same as in `linear_few`, which norms rows too."""


@dataclass(frozen=True, slots=True)
class Norm:
    """The parameters of a norm."""

    gain: Tensor
    """[K]."""
    eps: float


@triton.jit
def inverse_rms(row, eps, K: tl.constexpr):
    """Returns 1 / √(mean square + eps) of a row of K numbers; behind them are zeros."""
    return tl.rsqrt(tl.sum(row * row) / K + eps)


@triton.jit
def _normed(inputs, gain, outputs, eps, K: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    let_next_start(OVERLAPS)
    columns = tl.arange(0, WIDTH)
    gains = tl.load(gain + columns, mask=columns < K, other=0.0).to(tl.float32)
    wait_for_previous(OVERLAPS)
    places = tl.program_id(0).to(tl.int64) * K + columns
    row = tl.load(inputs + places, mask=columns < K, other=0.0).to(tl.float32)
    scaled = row * inverse_rms(row, eps, K) * gains
    tl.store(outputs + places, scaled.to(outputs.dtype.element_ty), mask=columns < K)


def normed(inputs: Tensor, norm: Norm, overlaps: bool = False) -> Tensor:
    """Returns inputs [M, K], normed and multiplied by the gain."""
    outputs, depth = torch.empty_like(inputs), inputs.shape[1]
    options = {"launch_pdl": True} if overlaps else {}
    width = triton.next_power_of_2(depth)
    _normed[(len(inputs),)](
        inputs, norm.gain, outputs, norm.eps, K=depth, WIDTH=width, OVERLAPS=overlaps, num_warps=NUM_WARPS, **options
    )
    return outputs
