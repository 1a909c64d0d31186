"""PyTorch's word for a device that computes nothing any more, as the engine's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from index_grpc.errors import DeviceLost


@contextmanager
def lost_device_told() -> Iterator[None]:
    """Raises DeviceLost in the place of PyTorch's own."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error)) from error
