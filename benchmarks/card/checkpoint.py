"""A plain Llama with random weights that our server and the peers load alike."""

import time
from pathlib import Path

import torch
from random_checkpoint import WEIGHTS, random_tensors
from random_checkpoint import write_companions as write_source
from safetensors.torch import save_file

from index_grpc.model.checkpoint import HEAD

SEED = 0


def made(shape: str, directory: Path) -> float:
    """Writes it unless it is there, and returns the seconds that took."""
    started = time.perf_counter()
    if not (directory / WEIGHTS).exists():
        write(shape, directory)
    return time.perf_counter() - started


@torch.inference_mode()
def write(shape: str, directory: Path) -> None:
    """The weights come last, under their own name once they are whole."""
    from plain_llama import without_endings, write_companions  # brings transformers, which takes seconds

    source = directory / "source"
    write_source(shape, source)
    tensors = dict(random_tensors(write_companions(source, directory), SEED))
    tensors[HEAD] = without_endings(tensors[HEAD])
    unfinished = directory / f"{WEIGHTS}.unfinished"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.rename(directory / WEIGHTS)
