"""Has memory bring the next product's weights into the L2 cache while nobody else asks it for anything.

A kernel's programs read their own weights ahead, as far as there are registers. While its last programs wait for the
kernel before and sum up, the next kernel's programs have no room yet, and memory would stand idle.
"""

import triton
import triton.language as tl

PROGRAMS = tl.constexpr(256)
"""The last ones of a kernel, some two for each processor of a large card: when they run, none is left to start."""
WARPS = tl.constexpr(8)
"""Of each program; one thread of each asks."""
CHUNK_BYTES = tl.constexpr(8192)
"""What a thread asks for: 16 MiB in all, about what memory brings while a token attends."""
ASK = tl.constexpr("""{
    .reg .pred chosen;
    setp.ne.s32 chosen, $2, 0;
    @chosen cp.async.bulk.prefetch.L2.global [$1], $2;
    mov.u32 $0, 0;
}""")


@triton.jit
def prefetch(weight, part_size, PARTS: tl.constexpr):
    """Asks for the beginnings of a weight's parts, `part_size` numbers each, which are read side by side."""
    CHUNK: tl.constexpr = CHUNK_BYTES // (weight.dtype.element_ty.primitive_bitwidth // 8)
    thread = tl.arange(0, 32 * WARPS)
    warp = thread // 32
    turn = tl.program_id(0) - tl.maximum(tl.num_programs(0) - PROGRAMS, 0)
    inside = (turn * WARPS + warp) // PARTS * CHUNK
    addresses = (weight + (warp % PARTS).to(tl.int64) * part_size + inside).to(tl.int64)
    chosen = (thread % 32 == 0) & (turn >= 0) & (inside + CHUNK <= part_size) & (addresses % 16 == 0)
    size = tl.where(chosen, CHUNK_BYTES, 0)
    tl.inline_asm_elementwise(ASK, "=r,l,r", [addresses, size], tl.int32, is_pure=False, pack=1)
