"""Ways in beside gRPC's."""

from typing import Protocol


class ExtraPort(Protocol):
    """A way in beside gRPC's."""

    address: str
    """Host and port in effect, once it is open."""

    async def open(self) -> None:
        """Raises StartupError if that is not possible."""

    async def close(self) -> None:
        """Takes nothing new; what is open soon ends, since the engine does. May be called twice, or without `open`."""
