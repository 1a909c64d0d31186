"""A digest of a checkpoint's weights that is made while they are loaded, from a sample of each tensor.

Reading all of the weights once more would take seconds. A sample tells any two trainings apart, since these change
nearly all weights; it does not notice a change of a few rows.
"""

import hashlib
from collections import deque
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from index_grpc.model.weight_files import StoredTensor

MOST_NUMBERS = 256
"""The most numbers of one tensor that are looked at."""
MOST_JOINED = 3
"""How many tensors are read before they are copied. Until then a tensor is not sampled: from a file that is not in
memory yet, single numbers take many times as long to read as after the whole tensor was read in its order."""
GOLDEN_RATIO = 0.6180339887498949
"""Its multiples, whole parts left out, spread evenly and fall into different columns whatever the row's length is."""


class WeightSamples:
    """The samples of all tensors that were read. They depend on the checkpoint, not on its files or on the device."""

    def __init__(self) -> None:
        self._samples: dict[str, bytes] = {}
        self._unsampled: deque[tuple[str, StoredTensor, Tensor]] = deque()

    def watch(self, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
        """Returns the tensors, each of which is noted for a sample when it is read."""
        return {name: replace(tensor, read=partial(self._read, name, tensor)) for name, tensor in tensors.items()}

    def digest(self) -> str:
        """Returns a digest of the samples, names, shapes and dtypes of the tensors that were read, in hexadecimal."""
        while self._unsampled:
            self._sample_next()
        digest = hashlib.blake2b()
        for name in sorted(self._samples):
            digest.update(name.encode() + self._samples[name])
        return digest.hexdigest()

    def _read(self, name: str, stored: StoredTensor) -> Tensor:
        tensor = stored.read()
        self._unsampled.append((name, stored, tensor))
        if len(self._unsampled) > MOST_JOINED:
            self._sample_next()
        return tensor

    def _sample_next(self) -> None:
        name, stored, tensor = self._unsampled.popleft()
        self._samples[name] = f" {stored.dtype} {stored.shape} ".encode() + sample(tensor)


def sample(tensor: Tensor) -> bytes:
    """Returns numbers of a tensor, spread over it in places that depend only on its shape, as float32."""
    return tensor.flatten()[places(tensor.numel())].float().numpy().tobytes()


@cache
def places(size: int) -> Tensor:
    """Returns, in ascending order, the places in a tensor of `size` numbers that are looked at."""
    spread = (int(number * GOLDEN_RATIO % 1 * size) for number in range(MOST_NUMBERS))
    return torch.tensor(sorted({*spread, size - 1}) if size > MOST_NUMBERS else range(size))
