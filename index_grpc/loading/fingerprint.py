"""The fingerprint of a model: a short text that names everything that may change the answer of a seed."""

import hashlib
import re
from pathlib import Path

import torch

from index_grpc import __version__
from index_grpc.engine.runner import Computes

DIGEST_BYTES = 4


def fingerprint(model: Computes, directory: Path, quantize: str) -> str:
    """Returns the fingerprint. Servers with the same one give the same text for the same request and seed.

    Settings that are not in it change no answer: memory, queue, reuse of prefixes, and on the native kernels the number
    of threads. PyTorch's version and instruction set are in it on every device, because PyTorch normalises the head and
    computes the rotary angles.
    """
    parts = [
        __version__,
        model.device.type,  # the second card of a machine computes the same as the first
        model.arithmetic,
        f"torch{torch.__version__}_{torch.backends.cpu.get_cpu_capability()}",
        str(model.dtype).removeprefix("torch."),
        "" if quantize == "none" else quantize,
        checkpoint_digest(model, directory),
    ]
    return "-".join(word for part in parts if (word := re.sub("[^a-z0-9.+]+", "_", part.lower()).strip("_")))


def checkpoint_digest(model: Computes, directory: Path) -> str:
    """Returns a digest of config, tokenizer and weights, which does not depend on what computes."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(repr(model.config).encode())
    digest.update((directory / "tokenizer.model").read_bytes())
    digest.update(model.weights_digest.encode())
    return digest.hexdigest()
