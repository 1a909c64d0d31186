"""Exports a model by its name."""

import errno
from pathlib import Path

import torch

from index_grpc.errors import StartupError
from index_grpc.export.llama import write_llama
from index_grpc.model.config import read_config
from index_grpc.model.hub import resolve

GGUF_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def write(model: str, revision: str | None, kind: str, dtype: str | None, output: Path) -> Path:
    """Writes `model` into `output`, as `kind` says, and returns the path of what was written. Raises StartupError."""
    name, source = resolve(model, revision)
    try:
        with torch.inference_mode():
            return _gguf(name, source, dtype, output) if kind == "gguf" else _llama(source, output)
    except OSError as error:
        raise StartupError(f"cannot write to {output}: {error.strerror or error}; {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space there, or name another --output"
    return "name an --output that this user may create and write"


def _llama(source: Path, output: Path) -> Path:
    write_llama(source, output)
    return output


def _gguf(name: str, source: Path, dtype: str | None, output: Path) -> Path:
    try:
        from index_grpc.export.gguf_file import write_gguf
    except ModuleNotFoundError as error:
        raise StartupError(f"GGUF files need the package {error.name}; pip install 'index-grpc[gguf]'") from error
    chosen = dtype or GGUF_TYPES[read_config(source).dtype]
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name.rpartition('/')[2]}-{chosen}.gguf"
    write_gguf(source, path, chosen)
    return path
