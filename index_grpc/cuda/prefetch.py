"""Prefetches the next product's weights into the L2 cache while the memory would be idle.

A kernel's programs load their own weights ahead, as far as registers allow. While its last programs wait for the kernel
before and sum up, there is no room yet for the next kernel's programs, so nothing else uses the memory.
"""

import triton
import triton.language as tl

PROGRAMS = tl.constexpr(256)
"""How many of a kernel's last programs prefetch, about two for each SM of a large GPU: none starts after them."""
WARPS = tl.constexpr(8)
"""Warps of each program; one thread of each warp prefetches."""
CHUNK_BYTES = tl.constexpr(8192)
"""Bytes that a thread prefetches: 16 MiB in all, about what the memory delivers during a token's attention."""
ASK = tl.constexpr("""{
    .reg .pred chosen;
    setp.ne.s32 chosen, $2, 0;
    @chosen cp.async.bulk.prefetch.L2.global [$1], $2;
    mov.u32 $0, 0;
}""")


@triton.jit
def prefetch(weight, part_size, PARTS: tl.constexpr):
    """Prefetches the beginnings of a weight's parts, `part_size` numbers each, which are read in parallel."""
    CHUNK: tl.constexpr = CHUNK_BYTES // (weight.dtype.element_ty.primitive_bitwidth // 8)
    thread = tl.arange(0, 32 * WARPS)
    warp = thread // 32
    turn = tl.program_id(0) - tl.maximum(tl.num_programs(0) - PROGRAMS, 0)
    inside = (turn * WARPS + warp) // PARTS * CHUNK
    addresses = (weight + (warp % PARTS).to(tl.int64) * part_size + inside).to(tl.int64)
    chosen = (thread % 32 == 0) & (turn >= 0) & (inside + CHUNK <= part_size) & (addresses % 16 == 0)
    size = tl.where(chosen, CHUNK_BYTES, 0)
    tl.inline_asm_elementwise(ASK, "=r,l,r", [addresses, size], tl.int32, is_pure=False, pack=1)
