"""What can compute on this machine: each kind of native kernels that its processor can run, and PyTorch."""

import pytest

from index_grpc.model.native import Kernels, all_kernels

PYTORCH = "pytorch"

NATIVE: dict[str, Kernels] = {str(kernels): kernels for kernels in all_kernels()}
KERNELS = [*NATIVE, PYTORCH]


def compute_with(patch: pytest.MonkeyPatch, name: str) -> None:
    """Has whatever is loaded from now on computed by these kernels."""
    patch.setattr("index_grpc.loading.cpu.find_kernels", lambda: NATIVE.get(name))
