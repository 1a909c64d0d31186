"""Triton kernels for CUDA; each can also be run by Triton's interpreter, on tensors of a CPU."""

from triton import __version__ as TRITON_VERSION  # noqa: N812 - a constant

__all__ = ["TRITON_VERSION"]
