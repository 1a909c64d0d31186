"""Limits every side to AVX2, so that results apply also to machines that have nothing newer.

PyTorch, oneDNN and MKL obey environment variables, and our server asks PyTorch. llama.cpp is compiled a second time,
and the peer with vLLM reads the first variable itself.
"""

import os
from pathlib import Path

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def held_to_avx2() -> bool:
    """Whether this process, and those that it starts, are limited."""
    return os.environ.get("ATEN_CPU_CAPABILITY") == AVX2["ATEN_CPU_CAPABILITY"]


def llamacpp() -> str:
    """The environment whose llama.cpp is compiled for the allowed instructions."""
    return "llamacpp-avx2" if held_to_avx2() and has_more_than_avx2() else "llamacpp"


def has_more_than_avx2() -> bool:
    """Whether this machine has instructions newer than AVX2."""
    return "avx512f" in Path("/proc/cpuinfo").read_text().split()
