"""Controls how memory is taken from the system and given back."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

M_MMAP_THRESHOLD = -3
LOADING_THRESHOLD_BYTES = 2**20
USUAL_THRESHOLD_BYTES = 32 * 2**20  # the largest value of glibc's own threshold, which grows

MADV_HUGEPAGE = 14
LARGE_PAGE_BYTES = 2**21


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Makes glibc map each large block separately, so that its memory returns to the system as soon as it is freed.

    Loading frees every tensor after packing it. In the heap these would leave holes in which nothing later fits, a
    quarter of the weights' size. Without glibc this changes nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    set_option(M_MMAP_THRESHOLD, LOADING_THRESHOLD_BYTES)
    try:
        yield
    finally:
        set_option(M_MMAP_THRESHOLD, USUAL_THRESHOLD_BYTES)


def in_large_pages(tensor: Tensor) -> Tensor:
    """Asks Linux to back a new tensor with large pages, which need fewer address look-ups. Returns the tensor."""
    first = -(-tensor.data_ptr() // LARGE_PAGE_BYTES) * LARGE_PAGE_BYTES
    num_bytes = (tensor.data_ptr() + tensor.nbytes - first) // LARGE_PAGE_BYTES * LARGE_PAGE_BYTES
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is not None and num_bytes > 0 and tensor.device.type == "cpu":
        advise(ctypes.c_void_p(first), ctypes.c_size_t(num_bytes), MADV_HUGEPAGE)
    return tensor
