"""Triton kernels for CUDA; each can also be run by Triton's interpreter, on tensors of a CPU."""

import triton

TRITON_VERSION: str = triton.__version__
