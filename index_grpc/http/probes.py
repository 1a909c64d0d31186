"""Health checks over HTTP, for orchestrators: is this server ready, and alive? The statuses are those of gRPC."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from index_grpc.errors import IndexGrpcError
from index_grpc.http.problem import problem_of, tutorial_error
from index_grpc.http.response import json_response
from index_grpc.server.app import App
from index_grpc.server.call import authorization, request_id

READY_PATHS = ("/health", "/healthz", "/readyz")
ALIVE_PATH = "/livez"


def probes(app: App) -> list[Route]:
    """Returns the routes of the probes. Requests to them are not calls: nothing is logged or counted."""

    def route(path: str, is_serving: Callable[[], bool]) -> Route:
        async def told(request: Request) -> Response:
            given = request_id(request.headers)
            if not app.settings.open_health:
                try:
                    app.access.gate.caller(authorization(request.headers))
                except IndexGrpcError as error:
                    problem = problem_of(error, given)
                    return json_response(tutorial_error(problem), problem.status, given, problem.headers)
            serving = is_serving()
            status = {"status": "SERVING" if serving else "NOT_SERVING"}
            return json_response(status, 200 if serving else 503, given)

        return Route(path, told)

    ready = [route(path, lambda: app.health.is_ready) for path in READY_PATHS]
    return [*ready, route(ALIVE_PATH, lambda: True)]
