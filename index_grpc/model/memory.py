"""Keeps loading a model from leaving holes in memory."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_MMAP_THRESHOLD = -3
LOADING_THRESHOLD_BYTES = 2**20
USUAL_THRESHOLD_BYTES = 32 * 2**20  # where glibc's own, growing threshold ends


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Has glibc map each large block by itself, so that memory goes back to the system as soon as it is freed.

    Loading frees every tensor once it has been laid out anew. In the heap they would leave holes that nothing later
    fits: a quarter of the weights' size. Elsewhere than on glibc it changes nothing.
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
