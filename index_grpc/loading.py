"""From settings to a runner: checkpoint → weights → model, sized to the memory there is."""

import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from index_grpc.contract import ServedModel
from index_grpc.engine.runner import Computes, Model, ModelRunner
from index_grpc.engine.scheduler import Limits
from index_grpc.errors import CheckpointError, StartupError
from index_grpc.machine import num_cores
from index_grpc.model.checkpoint import load_weights, num_parameters, open_checked
from index_grpc.model.config import ModelConfig, position_bytes, read_config
from index_grpc.model.hub import fetch, resolve
from index_grpc.model.linear import LinearKind, linear_kinds
from index_grpc.model.llama import Llama, choose_kind
from index_grpc.model.memory import large_blocks_apart
from index_grpc.model.native import Kernels, find_kernels
from index_grpc.model.native_weights import load_native
from index_grpc.model.weights import LlamaWeights
from index_grpc.settings import ServeSettings
from index_grpc.sizing import CHUNK_TOKENS, limits_for, max_sequences
from index_grpc.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from index_grpc.engine.device.runner import DeviceRunner

log = logging.getLogger(__name__)

CPU = torch.device("cpu")

TINY_PARAMETERS = 20_000_000

OLDEST_CUDA, SMALLEST_CUDA_HEAD = (8, 0), 16
"""What the kernels' matrix products need: Ampere, and heads of so many numbers."""


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """All that the engine's loop needs, and what callers may know of the model."""

    model: ServedModel
    runner: "ModelRunner | DeviceRunner"
    limits: Limits
    directory: Path
    """The checkpoint's."""


def load_runner(settings: ServeSettings) -> LoadedRunner:
    """Loads what the settings name. Raises StartupError, in one sentence, if that is not possible."""
    try:
        return _load(settings)
    except (MemoryError, torch.OutOfMemoryError) as error:
        tried = "less of --kv-memory-fraction" if on_cuda(settings) else "fewer --threads, --quantize int8"
        remedy = f"free some memory, or try {tried} or another --device"
        raise StartupError(f"not enough memory or threads to load {settings.model}; {remedy}") from error


def _load(settings: ServeSettings) -> LoadedRunner:
    started = time.monotonic()
    device = choose_device(settings.device)
    name, directory = resolve(settings.model, settings.revision)
    config, _ = describe(directory)
    limits, runner = (
        load_on_cuda(directory, config, device, settings)
        if device.type == "cuda"
        else load_on_cpu(directory, config, settings)
    )
    served = ServedModel(
        name=name,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        num_parameters=num_parameters(config),
        device=str(device),
        dtype=str(runner.model.dtype).removeprefix("torch."),
        quantization="" if settings.quantize == "none" else settings.quantize,
    )
    _log_summary(served, runner.model, limits, time.monotonic() - started)
    return LoadedRunner(served, runner, limits, directory)


def load_on_cpu(directory: Path, config: ModelConfig, settings: ServeSettings) -> tuple[Limits, ModelRunner]:
    """A runner on the processor, and what it may hold."""
    model = load_model(directory, config, settings)
    limits = limits_for(model, settings)
    return limits, ModelRunner(model, limits.max_sequences)


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


def describe(directory: Path) -> tuple[ModelConfig, Tokenizer]:
    """A checkpoint's shape and tokenizer. Raises CheckpointError if they do not fit together."""
    config, tokenizer = read_config(directory), Tokenizer.load(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: tokenizer.model has {tokenizer.vocab_size} pieces and the model only {config.vocab_size} "
            "rows for them (vocab_size in config.json); both must come from the same model"
        )
    return config, tokenizer


def download(model: str, revision: str | None = None, output: Path | None = None) -> Path:
    """Fetches a hub model, checks that it can be served, without reading its weights, and returns its directory.

    It goes into `output` or, without one, into the hub client's cache. Raises CheckpointError.
    """
    directory = fetch(model, revision, output)
    config, _ = describe(directory)
    open_checked(directory, config)
    return directory


def load_model(directory: Path, config: ModelConfig, settings: ServeSettings) -> Model:
    """The checkpoint's weights, ready to compute: with the native kernels if they can, else with PyTorch."""
    dtype = chosen_dtype(settings, CPU)
    num_threads = settings.threads or default_threads(config)
    if num_threads > (cores := num_cores()):
        log.warning("%d threads on %d cores are in each other's way; --threads 0 takes what fits", num_threads, cores)
    kernels = choose_kernels(config, dtype, settings.quantize)
    with torch.inference_mode(), large_blocks_apart():
        if kernels is not None:
            torch.set_num_threads(1)  # what PyTorch still does is small, and its threads would be in the way
            return load_native(directory, config, kernels, num_threads, as_int8=settings.quantize == "int8")
        torch.set_num_threads(num_threads)
        return load_llama(directory, config, dtype, most_rows=max_sequences(settings, CPU) + CHUNK_TOKENS["cpu"])


def load_llama(directory: Path, config: ModelConfig, dtype: torch.dtype, most_rows: int) -> Llama:
    """The model with PyTorch, for batches of up to `most_rows` tokens."""
    kind, rows_independent = choose_kind(config, CPU, dtype, most_rows)
    _warn_if_slow(dtype, kind, rows_independent)
    weights = LlamaWeights(config)
    load_weights(directory, config, weights, CPU, dtype)
    return Llama(config, weights, kind, rows_independent)


def choose_kernels(config: ModelConfig, dtype: torch.dtype, quantize: str) -> Kernels | None:
    """The native kernels, if they can compute this; else None. Raises StartupError where only they could."""
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


def choose_device(name: str) -> torch.device:
    """The device of a `--device` setting. Raises StartupError if it is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name if ":" in name or name == "cpu" else f"{name}:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = f"PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here"
        raise StartupError(f"device {name}: {there}; use --device cpu, or install a driver and a CUDA build of PyTorch")
    return device


def on_cuda(settings: ServeSettings) -> bool:
    """Whether a GPU is to compute."""
    return choose_device(settings.device).type == "cuda"


def default_threads(config: ModelConfig) -> int:
    """A thread for each core, but one for a tiny model, whose products are done before a second thread has woken."""
    return 1 if num_parameters(config) < TINY_PARAMETERS else num_cores()


def chosen_dtype(settings: ServeSettings, device: torch.device) -> torch.dtype:
    """As the settings say; else bfloat16 where it is fast, float32 elsewhere."""
    default = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(settings.dtype, default)


def _warn_if_slow(dtype: torch.dtype, kind: LinearKind, rows_independent: bool) -> None:
    if not rows_independent:
        log.warning("no matrix product here keeps sequences independent; computing one at a time, which is slow")
    elif kind is not linear_kinds(CPU, dtype)[0]:
        log.warning("the fastest matrix product is missing here or makes sequences depend on each other; using another")


def _log_summary(served: ServedModel, model: Computes, limits: Limits, seconds: float) -> None:
    quantized = f", weights in {served.quantization}" if served.quantization else ""
    log.info(
        "loaded %s: %.1f M parameters; %s%s on %s (%s), in %.1f s",
        served.name, served.num_parameters / 1e6, served.dtype, quantized, served.device, model.engine, seconds,
    )  # fmt: skip
    size = limits.max_cache_tokens * position_bytes(model.config, model.dtype.itemsize)
    log.info(
        "context %d tokens; %d conversations at once, %d waiting; up to %.1f GiB for their keys and values",
        limits.context_length, limits.max_sequences, limits.max_waiting, size / 2**30,
    )  # fmt: skip
