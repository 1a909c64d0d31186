"""The gRPC port and its access control, with their files, which may change while the server runs."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH

from index_grpc.access.files import Reloaded, keep_fresh
from index_grpc.access.gate import Gate
from index_grpc.access.keys import key_file
from index_grpc.server.key_interceptor import KeyInterceptor
from index_grpc.server.listen import GrpcPort
from index_grpc.server.orca import OPEN_RCA_SERVICE
from index_grpc.server.reflection import NAMES
from index_grpc.settings import ServeSettings

HEALTH_SERVICE: str = HEALTH.services_by_name["Health"].full_name


class AccessControl:
    """Everything that decides who may call the server. Raises StartupError if one of its files cannot be used."""

    def __init__(self, settings: ServeSettings) -> None:
        keys = key_file(settings.api_keys_file) if settings.api_keys_file else None
        self.gate = Gate(keys)
        self.key_interceptor = KeyInterceptor(self.gate, _closed_services(settings))
        self.port = GrpcPort(settings)
        files: list[Reloaded[Any] | None] = [keys, self.port.certificates]
        self._files = [found for found in files if found is not None]
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self, server: grpc.aio.Server) -> str:
        """Opens the port and returns its address. Raises StartupError if that is not possible."""
        address = self.port.open(server)
        await server.start()
        if self._files:
            self._refreshing = asyncio.create_task(keep_fresh(self._files))
        return address

    def close(self) -> None:
        """Stops checking the files. It does not close the port: the gRPC server does."""
        if self._refreshing is not None:
            self._refreshing.cancel()


def _closed_services(settings: ServeSettings) -> list[str]:
    """Returns the services, besides the chat service, that need a key if the server has keys."""
    balancing = [] if settings.open_health else [HEALTH_SERVICE, OPEN_RCA_SERVICE]
    return balancing if settings.open_reflection else [*balancing, *NAMES]
