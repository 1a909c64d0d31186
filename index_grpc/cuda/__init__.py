"""Triton kernels for CUDA; each can also be run by Triton's interpreter, on tensors of a CPU."""
