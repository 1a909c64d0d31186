"""Refuses requests that are not calls: those for no path or method of the port, and those that are ambiguous."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from index_grpc.http.endpoint import peer_of
from index_grpc.http.problem import Problem, error_form
from index_grpc.http.response import json_response
from index_grpc.logs import Event
from index_grpc.server.call import request_id
from index_grpc.server.call_log import Fields, log

MOST_PATH_CHARACTERS = 64
"""The most that is logged and sent back of a path or a method that a caller has made up."""


def refusal(scope: Scope, problem: Problem, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns the response that tells a problem in the form of the request's path, and logs it like a call.

    No metric counts it, since the values of labels must not come from callers.
    """
    path, given = scope["path"], request_id(Headers(scope=scope))
    fields: Fields = {"request_id": given, "method": shortened(path), "code": code, "reason": problem.reason}
    if not path:
        del fields["method"]
    if "method" in scope:
        fields["http_method"] = shortened(scope["method"])
    if peer := peer_of(scope.get("client")):
        fields["peer"] = peer
    log.info(Event("call", fields))
    return json_response(error_form(path)(problem), problem.status, given, headers)


def shortened(path: str) -> str:
    """Returns a path or a method, or the beginning of a long one."""
    return path if len(path) <= MOST_PATH_CHARACTERS else f"{path[:MOST_PATH_CHARACTERS]}…"
