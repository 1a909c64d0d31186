"""What can compute on this machine: the kinds of native kernels that its processor supports, and PyTorch."""

import pytest

from index_grpc.model.native import Kernels, all_kernels

PYTORCH = "pytorch"

NATIVE: dict[str, Kernels] = {str(kernels): kernels for kernels in all_kernels()}
KERNELS = [*NATIVE, PYTORCH]


def compute_with(patch: pytest.MonkeyPatch, name: str) -> None:
    """Makes models that are loaded from now on use these kernels."""
    patch.setattr("index_grpc.loading.cpu.find_kernels", lambda: NATIVE.get(name))
