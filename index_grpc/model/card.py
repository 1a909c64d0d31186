"""The properties of a GPU that decide how kernels are launched, or whether they can be."""

from dataclasses import dataclass
from typing import Any

import torch

LARGE_MEMORY = 200_000
"""Bytes of shared memory that make a GPU large, as Hopper is; the tiles for smaller GPUs fit in 99 KB."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU."""

    capability: tuple[int, int]
    """The compute capability: (8, 0) is Ampere, (9, 0) Hopper, (10, 0) Blackwell in data centres."""
    shared_bytes: int
    """Bytes of shared memory that one program can have."""
    name: str = ""
    """The product name."""

    @classmethod
    def of(cls, device: torch.device) -> "Card":
        """Returns the GPU of a device; for a CPU, which Triton's interpreter uses, a GPU without any capabilities."""
        if device.type != "cuda":
            return cls((0, 0), 0)
        properties: Any = torch.cuda.get_device_properties(device)  # its type does not list all attributes
        capability = torch.cuda.get_device_capability(device)
        return cls(capability, int(properties.shared_memory_per_block_optin), str(properties.name))

    @property
    def overlaps(self) -> bool:
        """Whether a kernel may start while the one before it still runs."""
        return self.capability >= (9, 0)

    @property
    def is_large(self) -> bool:
        """Whether a program can have much shared memory."""
        return self.shared_bytes >= LARGE_MEMORY

    @property
    def has_tensor_memory(self) -> bool:
        """Whether products of 64 rows and more are summed in tensor memory."""
        return self.capability[0] in (10, 11)
