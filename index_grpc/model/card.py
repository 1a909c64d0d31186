"""What a GPU is like, as far as it decides how kernels are launched, or whether they can be."""

from dataclasses import dataclass
from typing import Any

import torch

LARGE_MEMORY = 200_000
"""Bytes that programs of one processor share, as on Hopper; the tiles for fewer fit in 99 KB."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU."""

    capability: tuple[int, int]
    """What CUDA can do there: (8, 0) is Ampere, (9, 0) Hopper, (10, 0) Blackwell in data centres."""
    shared_bytes: int
    """Memory that programs of one of its processors share."""
    name: str = ""
    """What its maker calls it."""

    @classmethod
    def of(cls, device: torch.device) -> "Card":
        """The card of a device; on a processor Triton's interpreter stands for one without any gifts."""
        if device.type != "cuda":
            return cls((0, 0), 0)
        properties: Any = torch.cuda.get_device_properties(device)  # its type does not list all
        capability = torch.cuda.get_device_capability(device)
        return cls(capability, int(properties.shared_memory_per_block_optin), str(properties.name))

    @property
    def overlaps(self) -> bool:
        """Whether a kernel may start while the one before it still runs."""
        return self.capability >= (9, 0)

    @property
    def is_large(self) -> bool:
        """Whether programs have much memory to share."""
        return self.shared_bytes >= LARGE_MEMORY

    @property
    def has_tensor_memory(self) -> bool:
        """Whether products of 64 rows and more go through a memory of their own."""
        return self.capability[0] in (10, 11)
