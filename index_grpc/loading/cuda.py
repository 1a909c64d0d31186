"""Loads the model on a GPU."""

import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from index_grpc.engine.limits import Limits
from index_grpc.errors import StartupError
from index_grpc.loading.device import chosen_dtype
from index_grpc.loading.sizing import CHUNK_TOKENS, limits_for, max_sequences
from index_grpc.model.card import Card
from index_grpc.model.checkpoint import load_weights
from index_grpc.model.config import ModelConfig
from index_grpc.model.weights import LlamaWeights
from index_grpc.settings import ServeSettings

if TYPE_CHECKING:
    from index_grpc.engine.cuda.runner import CudaRunner

OLDEST_CUDA = (8, 0)
"""The compute capability that the kernels' matrix products need: Ampere's."""
SMALLEST_HEAD, LARGEST_HEAD = 16, 256
"""The head sizes that attention can compute; on GPUs with little shared memory, up to half of the largest."""


def load_on_cuda(
    directory: Path, config: ModelConfig, device: torch.device, settings: ServeSettings
) -> "tuple[Limits, CudaRunner]":
    """Returns a runner on a GPU, with its limits before it."""
    refuse_what_cuda_cannot(config, device, Card.of(device), settings.quantize)
    from index_grpc.engine.cuda.footprint import footprint_bytes  # needs Triton, which comes with CUDA builds
    from index_grpc.engine.cuda.runner import CudaRunner
    from index_grpc.model.cuda import CudaLlama

    weights = LlamaWeights(config)
    with torch.inference_mode():
        weights.digest = load_weights(directory, config, weights, device, chosen_dtype(settings, device))
        model = CudaLlama(config, weights)
    torch.cuda.empty_cache()  # the memory that fusing freed counts as free again
    taken = footprint_bytes(model, max_sequences(settings, device), CHUNK_TOKENS[device.type])
    limits = limits_for(model, settings, taken)
    return limits, CudaRunner(model, limits.max_sequences, limits.num_blocks, limits.chunk_tokens)


def refuse_what_cuda_cannot(config: ModelConfig, device: torch.device, card: Card, quantize: str) -> None:
    """Raises StartupError if the kernels for CUDA could not be compiled, or do not support what is asked for."""
    if quantize != "none":
        raise StartupError(f"--quantize {quantize} is not possible on {device}; leave it out")
    if card.capability < OLDEST_CUDA:
        older = "is older than Ampere (compute capability 8.0), the first that is supported"
        raise StartupError(f"{device}, {card.name}, {older}; use --device cpu")
    largest, size = LARGEST_HEAD if card.is_large else LARGEST_HEAD // 2, config.head_dim
    if size & (size - 1) or not SMALLEST_HEAD <= size <= largest:
        only = f"only powers of two from {SMALLEST_HEAD} to {largest} can be computed"
        raise StartupError(f"the model's heads are of size {size}; on {device} {only}; use --device cpu")
    refuse_without_compiler(device)


def refuse_without_compiler(device: torch.device) -> None:
    """Raises StartupError if the C compiler or headers are missing with which Triton builds its kernels' launchers."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise StartupError(f"kernels for {device} are compiled with a C compiler; install gcc or clang, or set CC")
    directory = sysconfig.get_paths("posix_prefix")["include"]
    is_elsewhere = os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH")
    if not (Path(directory, "Python.h").exists() or is_elsewhere):
        headers = f"Python's headers, and {directory} has no Python.h"
        raise StartupError(f"kernels for {device} are compiled with {headers}; install them (Debian: python3-dev)")
