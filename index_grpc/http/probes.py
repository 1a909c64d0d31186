"""What orchestrators ask over HTTP: is this server ready, and is it alive? The words are those of gRPC's health."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from index_grpc.http.response import json_response
from index_grpc.server.calls import request_id
from index_grpc.server.health import Health

READY_PATHS = ("/health", "/healthz", "/readyz")
ALIVE_PATH = "/livez"


def probes(health: Health) -> list[Route]:
    """Their routes. They are no calls: nothing is logged or counted."""

    async def ready(request: Request) -> Response:
        return _told(request, health.is_ready)

    async def alive(request: Request) -> Response:
        return _told(request, True)

    return [*(Route(path, ready) for path in READY_PATHS), Route(ALIVE_PATH, alive)]


def _told(request: Request, serving: bool) -> Response:
    status = {"status": "SERVING" if serving else "NOT_SERVING"}
    return json_response(status, 200 if serving else 503, request_id(request.headers))
