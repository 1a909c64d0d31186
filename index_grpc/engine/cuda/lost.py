"""Translation of PyTorch's error for a lost device into the engine's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from index_grpc.errors import DeviceLost


@contextmanager
def lost_device_told() -> Iterator[None]:
    """Raises DeviceLost in place of PyTorch's AcceleratorError."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error)) from error
