"""Programmatic dependent launch: a kernel may start while the one before it still runs.

Hopper and later GPUs support it. A kernel loads its weights at once, then waits for the results of the kernels before
it. If a step has a row, at least one program of each of its kernels waits, and a kernel ends only when all its programs
have ended. So a kernel that waits for the one before it has waited for all. Therefore at least one program of every
kernel must not return early.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def let_next_start(OVERLAPS: tl.constexpr):
    """Allows the next kernel to start as soon as the device has room for its programs."""
    if OVERLAPS:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous(OVERLAPS: tl.constexpr):
    """Waits until the kernel before has ended and its writes are visible."""
    if OVERLAPS:
        gdc_wait()
