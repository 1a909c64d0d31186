"""Copies numbers from the host to a device."""

from collections.abc import Sequence

import torch
from torch import Tensor

Numbers = Sequence[float] | Sequence[Sequence[float]]


def to_device(numbers: Numbers, device: torch.device, dtype: torch.dtype = torch.long) -> Tensor:
    """Returns the numbers as a tensor on the device.

    On CUDA it is copied from pinned memory, so that the host waits neither for the copy nor for the device's earlier
    work.
    """
    tensor = torch.tensor(numbers, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
