"""Loads the model on the CPU: on the native kernels if they can compute it, else on PyTorch."""

import logging
from pathlib import Path

import torch

from index_grpc.engine.limits import Limits
from index_grpc.engine.runner import CpuRunner
from index_grpc.errors import StartupError
from index_grpc.loading.device import CPU, chosen_dtype
from index_grpc.loading.sizing import CHUNK_TOKENS, limits_for, max_sequences
from index_grpc.machine import num_cores
from index_grpc.model.checkpoint import load_weights, num_parameters, open_checked
from index_grpc.model.config import ModelConfig
from index_grpc.model.linear import LinearKind, linear_kinds
from index_grpc.model.llama import TorchLlama, choose_kind
from index_grpc.model.memory import large_blocks_apart
from index_grpc.model.native import Kernels, NativeLlama, find_kernels
from index_grpc.model.native_weights import load_native
from index_grpc.model.weights import LlamaWeights
from index_grpc.settings import ServeSettings

log = logging.getLogger(__name__)

TINY_PARAMETERS = 20_000_000


def load_on_cpu(directory: Path, config: ModelConfig, settings: ServeSettings) -> tuple[Limits, CpuRunner]:
    """Returns a runner on the CPU, with its limits before it."""
    model = load_model(directory, config, settings)
    limits = limits_for(model, settings)
    return limits, CpuRunner(model, limits.max_sequences)


def load_model(directory: Path, config: ModelConfig, settings: ServeSettings) -> NativeLlama | TorchLlama:
    """Returns the model with its weights: on the native kernels if they can compute it, else on PyTorch."""
    dtype = chosen_dtype(settings, CPU)
    num_threads = settings.threads or default_threads(config)
    if num_threads > (cores := num_cores()):
        log.warning(
            "%d threads on %d cores slow each other down; --threads 0 chooses a number that fits", num_threads, cores
        )
    kernels = choose_kernels(config, dtype, settings.quantize)
    with torch.inference_mode(), large_blocks_apart():
        if kernels is not None:
            torch.set_num_threads(1)  # PyTorch has little to do then, and its threads would slow down the kernels'
            return load_native(directory, config, kernels, num_threads, as_int8=settings.quantize == "int8")
        torch.set_num_threads(num_threads)
        return load_llama(directory, config, dtype, most_rows=max_sequences(settings, CPU) + CHUNK_TOKENS["cpu"])


def load_llama(directory: Path, config: ModelConfig, dtype: torch.dtype, most_rows: int) -> TorchLlama:
    """Returns the model on PyTorch, for batches of up to `most_rows` tokens."""
    open_checked(directory, config)  # before products of these sizes are tested, which takes time and memory
    kind, rows_independent = choose_kind(config, CPU, dtype, most_rows)
    _warn_if_slow(dtype, kind, rows_independent)
    weights = LlamaWeights(config)
    weights.digest = load_weights(directory, config, weights, CPU, dtype)
    return TorchLlama(config, weights, kind, rows_independent)


def choose_kernels(config: ModelConfig, dtype: torch.dtype, quantize: str) -> Kernels | None:
    """Returns the native kernels if they can compute this, else None. Raises StartupError if `quantize` needs them."""
    kernels = find_kernels() if dtype == torch.float32 else None
    if kernels is not None and kernels.fit(config):
        return kernels
    if dtype != torch.float32:
        why_not = "the native kernels compute in float32 only"
    elif kernels is None:
        why_not = "the native kernels, which need x86 with AVX2 and a C++ compiler, were not built at installation"
        log.warning("%s; computing with PyTorch, which is slower; install again once there is a compiler", why_not)
    else:
        shape = f"{config.num_heads} heads of {config.head_dim} on {config.num_kv_heads}, rows of {config.hidden_size}"
        why_not = f"the native kernels cannot take this shape ({shape})"
        log.warning("%s; computing with PyTorch, which is slower", why_not)
    if quantize != "none":
        raise StartupError(f"--quantize {quantize} is not possible here: {why_not}; leave it out")
    return None


def default_threads(config: ModelConfig) -> int:
    """Returns one thread per core, or 1 for a tiny model, whose products are done before a second thread wakes up."""
    return 1 if num_parameters(config) < TINY_PARAMETERS else num_cores()


def _warn_if_slow(dtype: torch.dtype, kind: LinearKind, rows_independent: bool) -> None:
    if not rows_independent:
        log.warning("no matrix product here keeps sequences independent; computing one at a time, which is slow")
    elif kind is not linear_kinds(CPU, dtype)[0]:
        log.warning("the fastest matrix product is missing here or makes sequences depend on each other; using another")
