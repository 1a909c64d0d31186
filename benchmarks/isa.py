"""Holding every side to AVX2, so that results speak also for machines that have nothing newer.

PyTorch, oneDNN and MKL heed variables, and our server asks PyTorch. llama.cpp is compiled once more, and vLLM's peer
looks at the first variable by itself.
"""

import os
from pathlib import Path

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def held_to_avx2() -> bool:
    """Whether this process and those it starts are."""
    return os.environ.get("ATEN_CPU_CAPABILITY") == AVX2["ATEN_CPU_CAPABILITY"]


def llamacpp() -> str:
    """The environment whose llama.cpp is compiled for what is allowed."""
    return "llamacpp-avx2" if held_to_avx2() and has_more_than_avx2() else "llamacpp"


def has_more_than_avx2() -> bool:
    """Whether holding back makes a difference here."""
    return "avx512f" in Path("/proc/cpuinfo").read_text().split()
