"""The interface of ports besides gRPC's."""

from typing import Protocol


class ExtraPort(Protocol):
    """A port besides gRPC's."""

    address: str
    """Host and actual port, once it is open."""

    async def open(self) -> None:
        """Opens the port. Raises StartupError if that is not possible."""

    async def close(self) -> None:
        """Takes no new calls; open ones soon end, as the engine stops. May be called twice, or without `open`."""
