"""The forward pass and the drawing of tokens in C++, for x86 CPUs with AVX2 or AVX-512.

`kernels.cpp` is built twice when the package is installed, once for each register width; without a compiler, nothing is
built and PyTorch computes instead.
"""
