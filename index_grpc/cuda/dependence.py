"""A kernel may start while the one before it still runs, as far as it does not need its results.

Hopper and later can do so (programmatic dependent launch). What a kernel reads of weights it reads at once, then it
waits for whatever the kernels before it write. In every kernel of a step with a row some program waits, and a kernel
has not ended before all its programs have, so waiting for the one before is waiting for all. Hence no kernel may return
early in all its programs.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def let_next_start(OVERLAPS: tl.constexpr):
    """Allows the next kernel to start as soon as the device has room for it."""
    if OVERLAPS:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous(OVERLAPS: tl.constexpr):
    """Waits until the kernel before has ended and what it wrote can be read."""
    if OVERLAPS:
        gdc_wait()
