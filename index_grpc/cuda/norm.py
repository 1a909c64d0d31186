"""RMS norm. M is the number of rows, K their length."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.dependence import let_next_start, wait_for_previous


@triton.jit
def _normed(inputs, norm, outputs, eps, K: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    let_next_start(OVERLAPS)
    columns = tl.arange(0, WIDTH)
    gain = tl.load(norm + columns, mask=columns < K, other=0.0).to(tl.float32)
    wait_for_previous(OVERLAPS)
    places = tl.program_id(0).to(tl.int64) * K + columns
    row = tl.load(inputs + places, mask=columns < K, other=0.0).to(tl.float32)
    scaled = row * tl.rsqrt(tl.sum(row * row) / K + eps) * gain
    tl.store(outputs + places, scaled.to(outputs.dtype.element_ty), mask=columns < K)


def normed(inputs: Tensor, norm: Tensor, eps: float, overlaps: bool = False) -> Tensor:
    """Inputs [M, K], normed and times a gain [K]."""
    outputs, depth = torch.empty_like(inputs), inputs.shape[1]
    options = {"launch_pdl": True} if overlaps else {}
    width = triton.next_power_of_2(depth)
    _normed[(len(inputs),)](inputs, norm, outputs, eps, K=depth, WIDTH=width, OVERLAPS=overlaps, **options)
    return outputs
