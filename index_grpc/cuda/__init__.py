"""Triton kernels for CUDA. Triton's interpreter can also run each of them, on CPU tensors."""

import triton

TRITON_VERSION: str = triton.__version__
