"""The embedding: token ids to hidden states. An id that the host does not know yet is the one drawn last."""

import triton
import triton.language as tl
from torch import Tensor

from index_grpc.cuda.dependence import let_next_start, wait_for_previous

DRAWN_LAST = -1
"""Stands for the id that was drawn last for the row's slot."""


@triton.jit
def _embed(ids, slots, last_ids, table, outputs, K: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    let_next_start(OVERLAPS)
    wait_for_previous(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(ids + row)
    if token < 0:
        token = tl.load(last_ids + tl.load(slots + row))
    columns = tl.arange(0, WIDTH)
    values = tl.load(table + token.to(tl.int64) * K + columns, mask=columns < K, other=0.0)
    tl.store(outputs + row * K + columns, values, mask=columns < K)


def embed(
    ids: Tensor, slots: Tensor, last_ids: Tensor, table: Tensor, outputs: Tensor, overlaps: bool = False
) -> Tensor:
    """Fills outputs [M, K] with the rows of the table [V, K] for ids [M], int32."""
    depth = table.shape[1]
    options = {"launch_pdl": True} if overlaps else {}
    _embed[(len(ids),)](
        ids, slots, last_ids, table, outputs, K=depth, WIDTH=triton.next_power_of_2(depth), OVERLAPS=overlaps, **options
    )
    return outputs
