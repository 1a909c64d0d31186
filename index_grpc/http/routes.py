"""The paths of the HTTP port and their handlers."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from index_grpc.http.completions import Completions
from index_grpc.http.endpoint import Endpoint, Respond
from index_grpc.http.front import Front
from index_grpc.http.models import Models
from index_grpc.http.probes import probes
from index_grpc.http.problem import OPENAI, Problem, error_form
from index_grpc.http.refusal import refusal, shortened
from index_grpc.http.tutorial import Tutorial
from index_grpc.server.app import App


def routes(app: App) -> ASGIApp:
    """Returns the application with all paths of the port."""
    models = Models(app.answering)

    def call(method: str, path: str, answer: Respond, *, is_chat: bool = False) -> Route:
        name = path.replace(":path", "")  # logs, metrics and traces name it as OpenTelemetry's http.route does
        endpoint = Endpoint(app.calls, app.settings.max_message_mib, name, answer, error_form(path), is_chat=is_chat)
        return Route(path, endpoint, methods=[method])

    asgi = Starlette(
        routes=[
            call("POST", "/", Tutorial(app.answering).answer, is_chat=True),
            call("POST", f"{OPENAI}/chat/completions", Completions(app.answering).answer, is_chat=True),
            call("GET", f"{OPENAI}/models", models.list),
            call("GET", f"{OPENAI}/models/{{name:path}}", models.one),
            *probes(app),
        ],
        exception_handlers={HTTPException: _unknown_route},
    )
    asgi.router.redirect_slashes = False  # few clients send a body again after a redirect
    return Front(asgi)


async def _unknown_route(request: Request, error: Exception) -> Response:
    """Returns the error for an unknown path, or for a method that a path does not have."""
    assert isinstance(error, HTTPException)
    path = shortened(request.scope["path"])
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        problem = Problem(405, f"{request.method} is not for {path}; allowed is {allowed}", "METHOD_NOT_ALLOWED")
        return refusal(request.scope, problem, "UNIMPLEMENTED", error.headers)
    remedy = f"there are /, {OPENAI}/chat/completions, {OPENAI}/models, {OPENAI}/models/NAME, /health, /livez"
    problem = Problem(404, f"no path {path}; {remedy}", "PATH_NOT_FOUND")
    return refusal(request.scope, problem, "NOT_FOUND", error.headers)
