"""Loads the runner that the settings describe: checkpoint → weights → model, sized to the free memory."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from index_grpc.datatypes import ServedModel
from index_grpc.engine.limits import Limits
from index_grpc.engine.runner import Computes, CpuRunner
from index_grpc.errors import StartupError
from index_grpc.loading.checkpoint import describe
from index_grpc.loading.cpu import load_on_cpu
from index_grpc.loading.cuda import load_on_cuda
from index_grpc.loading.device import choose_device, on_cuda
from index_grpc.loading.fingerprint import fingerprint
from index_grpc.loading.sizing import in_units
from index_grpc.logs import adopt_libraries
from index_grpc.model.checkpoint import num_parameters
from index_grpc.model.config import position_bytes
from index_grpc.model.hub import resolve
from index_grpc.settings import ServeSettings
from index_grpc.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from index_grpc.engine.cuda.runner import CudaRunner

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """What the engine's loop needs, and what callers may know of the model."""

    model: ServedModel
    runner: "CpuRunner | CudaRunner"
    limits: Limits
    tokenizer: Tokenizer
    directory: Path
    """The checkpoint's directory."""


def load_runner(settings: ServeSettings) -> LoadedRunner:
    """Loads the model of the settings. Raises StartupError, with one sentence, if that is not possible."""
    adopt_libraries()  # they are imported by now
    try:
        return _load(settings)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        remedy = f"free some memory, or try {_less_memory(settings)} or another --device"
        raise StartupError(f"not enough memory or threads to load {settings.model}; {remedy}") from error


def _is_out_of_memory(error: Exception) -> bool:
    """Returns whether memory ran out. Triton, CUDA graphs and PyTorch on a CPU have no exception class for it."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _less_memory(settings: ServeSettings) -> str:
    """Returns the flags that make the service take less memory."""
    if not on_cuda(settings):
        return "fewer --threads, --quantize int8"
    cache = "--kv-memory-fraction" if settings.kv_memory_bytes is None else "--kv-memory-bytes"
    return f"less of {cache}, fewer --max-sequences"


def _load(settings: ServeSettings) -> LoadedRunner:
    started = time.monotonic()
    device = choose_device(settings.device)
    name, directory = resolve(settings.model, settings.revision)
    config, tokenizer = describe(directory)
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
        fingerprint=fingerprint(runner.model, directory, settings.quantize),
        quantization="" if settings.quantize == "none" else settings.quantize,
    )
    _log_summary(served, runner.model, limits, time.monotonic() - started)
    return LoadedRunner(served, runner, limits, tokenizer, directory)


def _log_summary(served: ServedModel, model: Computes, limits: Limits, seconds: float) -> None:
    quantized = f", weights in {served.quantization}" if served.quantization else ""
    log.info(
        "loaded %s: %.1f M parameters; %s%s on %s (%s), in %.1f s",
        served.name, served.num_parameters / 1e6, served.dtype, quantized, served.device, model.software, seconds,
    )  # fmt: skip
    size = limits.max_cache_tokens * position_bytes(model.config, model.dtype.itemsize)
    log.info("fingerprint %s", served.fingerprint)
    log.info(
        "context %d tokens; places: %d to run, %d to wait; up to %s for keys and values",
        limits.context_length, limits.max_sequences, limits.max_waiting, in_units(size),
    )  # fmt: skip
