"""The numbers that a step needs on the device, sent there in one copy."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

NUM_STAGES = 3
"""Host buffers, used in turn: for a step that runs, one that waits and one being prepared."""


class Inputs:
    """Named arrays of int32 numbers at fixed addresses of device memory."""

    def __init__(self, device: torch.device, **sizes: int) -> None:
        self._starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        total = sum(sizes.values())
        self._numbers = torch.zeros(total, dtype=torch.int32, device=device)
        is_cuda = device.type == "cuda"
        stages = [torch.zeros(total, dtype=torch.int32, pin_memory=is_cuda) for _ in range(NUM_STAGES)]
        self._stages = cycle([(stage, stage.numpy()) for stage in stages])

    def of(self, name: str, size: int) -> Tensor:
        """Returns the first `size` numbers of an array, as a view of device memory."""
        start = self._starts[name]
        return self._numbers[start : start + size]

    def send(self, **runs: "Sequence[int] | np.ndarray") -> None:
        """Replaces the beginnings of the given arrays. All other numbers may hold anything afterwards."""
        stage, numbers = next(self._stages)
        end = 0
        for name, run in runs.items():
            start = self._starts[name]
            numbers[start : start + len(run)] = run
            end = max(end, start + len(run))
        self._numbers[:end].copy_(stage[:end], non_blocking=True)


def as_ints(numbers: Sequence[float]) -> "np.ndarray":
    """Returns float32 numbers as int32 numbers with the same bits."""
    return np.asarray(numbers, dtype=np.float32).view(np.int32)
