"""Kernels for CUDA, in Triton's interpreter where there is no GPU."""
