"""grpc.health.v1: is this server ready (`""` and the chat service), and is it alive (`liveness`)?"""

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
    """NOT_SERVING until told otherwise, `liveness` SERVING from the start. Watch streams end with `end_watches`."""

    def __init__(self, service: str) -> None:
        self._ready_names = ("", service)
        self._statuses = dict.fromkeys(self._ready_names, NOT_SERVING) | {LIVENESS: SERVING}
        self._changed = asyncio.Event()
        self._watches_end = False

    @property
    def is_ready(self) -> bool:
        """Whether it says SERVING."""
        return bool(self._statuses[""] == SERVING)

    def set_ready(self, ready: bool) -> None:
        """Says whether the service takes requests."""
        self._statuses |= dict.fromkeys(self._ready_names, SERVING if ready else NOT_SERVING)
        self._wake()

    def end_watches(self) -> None:
        """Lets each Watch end after its last news, so that none of them holds up the server's stop."""
        self._watches_end = True
        self._wake()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """The status now; NOT_FOUND for a name that is not served."""
        if request.service not in self._statuses:
            names = ", ".join(repr(name) for name in self._statuses)
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {quoted(request.service)}; there are {names}")
        return HealthCheckResponse(status=self._statuses[request.service])

    async def List(self, request: HealthListRequest, context: Context) -> HealthListResponse:
        """All statuses."""
        statuses = {name: HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return HealthListResponse(statuses=statuses)

    async def Watch(
        self,
        request: HealthCheckRequest,
        context: Context,
    ) -> AsyncIterator[HealthCheckResponse]:
        """The status now and each time it changes."""
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
