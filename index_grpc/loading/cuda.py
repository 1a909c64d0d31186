"""The model on a GPU."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from index_grpc.engine.scheduler import Limits
from index_grpc.errors import StartupError
from index_grpc.loading.device import chosen_dtype
from index_grpc.loading.sizing import CHUNK_TOKENS, limits_for, max_sequences
from index_grpc.model.checkpoint import load_weights
from index_grpc.model.config import ModelConfig
from index_grpc.model.weights import LlamaWeights
from index_grpc.settings import ServeSettings

if TYPE_CHECKING:
    from index_grpc.engine.device.runner import DeviceRunner

OLDEST_CUDA, SMALLEST_CUDA_HEAD = (8, 0), 16
"""What the kernels' matrix products need: Ampere, and heads of so many numbers."""


def load_on_cuda(
    directory: Path, config: ModelConfig, device: torch.device, settings: ServeSettings
) -> "tuple[Limits, DeviceRunner]":
    """A runner on a GPU, and what it may hold."""
    refuse_what_cuda_cannot(config, device, settings.quantize)
    from index_grpc.engine.device.footprint import footprint_bytes  # needs Triton, which CUDA builds bring along
    from index_grpc.engine.device.runner import DeviceRunner
    from index_grpc.model.cuda import CudaLlama

    weights = LlamaWeights(config)
    with torch.inference_mode():
        load_weights(directory, config, weights, device, chosen_dtype(settings, device))
        model = CudaLlama(config, weights)
    torch.cuda.empty_cache()  # what fusing has left behind counts as free again
    taken = footprint_bytes(model, max_sequences(settings, device), CHUNK_TOKENS[device.type])
    limits = limits_for(model, settings, taken)
    return limits, DeviceRunner(model, limits.max_sequences, limits.num_blocks, limits.chunk_tokens)


def refuse_what_cuda_cannot(config: ModelConfig, device: torch.device, quantize: str) -> None:
    """Raises StartupError where the kernels for CUDA could not be compiled, or do not do what is asked."""
    if quantize != "none":
        raise StartupError(f"--quantize {quantize} is not possible on {device}; leave it out")
    if config.head_dim & (config.head_dim - 1) or config.head_dim < SMALLEST_CUDA_HEAD:
        heads = f"the model's heads are of size {config.head_dim}"
        only = f"only powers of two from {SMALLEST_CUDA_HEAD} on"
        raise StartupError(f"{heads}; on {device} {only} can be computed; use --device cpu")
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < OLDEST_CUDA:
        name, oldest = torch.cuda.get_device_name(device), "Ampere (compute capability 8.0)"
        raise StartupError(f"{device}, {name}, is older than {oldest}, the first that is supported; use --device cpu")
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise StartupError(f"kernels for {device} are compiled with a C compiler; install gcc or clang, or set CC")
