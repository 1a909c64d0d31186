"""Kernels for CUDA, in Triton's interpreter if there is no GPU."""
