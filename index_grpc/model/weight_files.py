"""The files that hold a checkpoint's weights, opened without reading the weights themselves."""

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from index_grpc.errors import CheckpointError
from index_grpc.model.json_file import read_object

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The names of weight files, first choice first."""

SAFETENSORS_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
GIT_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that stays in its file until `read` is called."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    """Such as "bfloat16", or the file's own name for a dtype that is not supported."""
    read: Callable[[], Tensor]
    """Returns the tensor on the CPU. It may share memory with the mapped file, so copy it and never write to it."""


def open_weights(directory: Path) -> dict[str, StoredTensor]:
    """Opens all tensors of a checkpoint, by name. Raises CheckpointError if a file is missing, broken or unsafe."""
    tensors: dict[str, StoredTensor] = {}
    for path in weight_paths(directory):
        _check_present(path)
        tensors |= _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
    return tensors


def weight_paths(directory: Path) -> list[Path]:
    """Returns the weight files: one, or the shards that an index names. Raises CheckpointError if there are none."""
    found = next((directory / name for name in WEIGHT_FILES if (directory / name).exists()), None)
    if found is None:
        raise CheckpointError(f"{directory}: has no weights; looked for {', '.join(WEIGHT_FILES)}")
    if found.suffix != ".json":
        return [found]
    try:
        shards = sorted(set(read_object(found)["weight_map"].values()), key=str)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{found}: is not an index of weights ({error!r}); download it again") from error
    misplaced = [name for name in shards if not _is_file_name(name)]
    if misplaced or not shards:
        raise CheckpointError(f"{found}: names {misplaced or 'no files'}; shards must be files beside the index")
    return [directory / name for name in shards]


def _is_file_name(name: object) -> bool:
    """Returns whether it is a file name. The system accepts neither a zero byte nor half of a surrogate pair."""
    return isinstance(name, str) and name.isprintable() and name not in ("", "..") and Path(name).name == name


def _check_present(path: Path) -> None:
    try:
        with path.open("rb") as file:
            beginning = file.read(len(GIT_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); download it again") from error
    if beginning == GIT_LFS_POINTER:
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the weights themselves; run `git lfs pull` there")


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        names: list[str] = file.keys()
        headers = {name: file.get_slice(name) for name in names}
    except (SafetensorError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise _broken(path, f" ({reason})") from error
    return {
        name: StoredTensor(
            path,
            shape=tuple(header.get_shape()),
            dtype=SAFETENSORS_DTYPES.get(header.get_dtype(), header.get_dtype()),
            read=partial(file.get_tensor, name),
        )
        for name, header in headers.items()
    }


def _open_pickle(path: Path) -> dict[str, StoredTensor]:
    """Maps the file. The restricted unpickler builds tensors and plain containers, and refuses to run all else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for {asked[1]}" if asked else "cannot be read as tensors"
        remedy = "nothing of it was run; use a file with tensors only, such as model.safetensors"
        raise CheckpointError(f"{path}: {what}; {remedy}") from error
    except Exception as error:  # a broken archive raises whatever the part that is read first raises
        raise _broken(path) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__} and should hold tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__} and should be a tensor")
    return {name: _pickled(path, tensor) for name, tensor in content.items()}


def _pickled(path: Path, tensor: Tensor) -> StoredTensor:
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    dtype = str(tensor.dtype).removeprefix("torch.") if plain else f"{tensor.layout} on {tensor.device}"
    return StoredTensor(path, tuple(tensor.shape), dtype, lambda: tensor)


def _broken(path: Path, reason: str = "") -> CheckpointError:
    size = path.stat().st_size if path.exists() else 0
    return CheckpointError(f"{path}: is broken or cut short at {size} bytes{reason}; download it again")
