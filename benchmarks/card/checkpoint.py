"""A plain Llama with random weights, which both our server and the peers can load."""

import time
from pathlib import Path

import torch
from random_checkpoint import WEIGHTS, random_tensors
from random_checkpoint import write_companions as write_source
from safetensors.torch import save_file

from index_grpc.model.checkpoint import HEAD

SEED = 0


def made(shape: str, directory: Path) -> float:
    """Writes the checkpoint unless it exists, and returns how many seconds that took."""
    started = time.perf_counter()
    if not (directory / WEIGHTS).exists():
        write(shape, directory)
    return time.perf_counter() - started


@torch.inference_mode()
def write(shape: str, directory: Path) -> None:
    """Writes the weights last, and gives the file its name when it is complete."""
    from plain_llama import without_endings, write_companions  # imports transformers, which takes seconds

    source = directory / "source"
    write_source(shape, source)
    tensors = dict(random_tensors(write_companions(source, directory), SEED))
    tensors[HEAD] = without_endings(tensors[HEAD])
    unfinished = directory / f"{WEIGHTS}.unfinished"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.rename(directory / WEIGHTS)
