"""What can compute on this machine: each build of the native kernels that its processor can run, and PyTorch."""

import ctypes

import pytest
import torch

from index_grpc.model.native import CAPABILITIES
from index_grpc.native.library import open_library

PYTORCH = "pytorch"

_RUNNABLE = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}.get(torch.backends.cpu.get_cpu_capability(), ())
LIBRARIES: dict[str, ctypes.CDLL] = {
    build: library for build in _RUNNABLE if (library := open_library(build)) is not None
}
BUILDS = list(LIBRARIES)
KERNELS = [*BUILDS, PYTORCH]

assert set(_RUNNABLE) <= set(CAPABILITIES.values())


def compute_with(patch: pytest.MonkeyPatch, kernels: str) -> None:
    """Has whatever is loaded from now on computed by these kernels."""
    patch.setattr("index_grpc.loading.find_library", lambda: LIBRARIES.get(kernels))
