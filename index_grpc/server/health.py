"""The service grpc.health.v1: whether the server is ready (`""` and the chat service) and alive (`liveness`)."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthServicer

from index_grpc.server.status import Context, quoted

LIVENESS = "liveness"

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


class Health(HealthServicer):
    """Reports NOT_SERVING until `set_ready`, and `liveness` SERVING from the start. `end_watches` ends all Watches."""

    def __init__(self, service: str) -> None:
        self._ready_names = ("", service)
        self._statuses = dict.fromkeys(self._ready_names, NOT_SERVING) | {LIVENESS: SERVING}
        self._changed = asyncio.Event()
        self._watches_end = False

    @property
    def is_ready(self) -> bool:
        """Whether the service is reported as SERVING."""
        return bool(self._statuses[""] == SERVING)

    def set_ready(self, ready: bool) -> None:
        """Sets whether the service is reported as SERVING."""
        self._statuses |= dict.fromkeys(self._ready_names, SERVING if ready else NOT_SERVING)
        self._wake()

    def end_watches(self) -> None:
        """Ends each Watch after its latest status is sent, so that none of them delays the server's stop.

        It must not be called while the server still takes calls: gRPC begins an ended Watch again at once.
        """
        self._watches_end = True
        self._wake()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """Returns the present status; NOT_FOUND for a name that is not served."""
        if request.service not in self._statuses:
            names = ", ".join(repr(name) for name in self._statuses)
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {quoted(request.service)}; there are {names}")
        return HealthCheckResponse(status=self._statuses[request.service])

    async def List(self, request: HealthListRequest, context: Context) -> HealthListResponse:
        """Returns all statuses."""
        statuses = {name: HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return HealthListResponse(statuses=statuses)

    async def Watch(
        self,
        request: HealthCheckRequest,
        context: Context,
    ) -> AsyncIterator[HealthCheckResponse]:
        """Sends the present status, and the new one each time it changes."""
        told = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield HealthCheckResponse(status=status)
            elif self._watches_end:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
