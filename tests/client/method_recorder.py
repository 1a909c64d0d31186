"""Records the methods that a server is called with."""

from typing import Any

import grpc


class MethodRecorder(grpc.ServerInterceptor):  # type: ignore[type-arg] # it takes them only in its stubs
    """Records the methods of all calls, also of those that the server does not have."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        self.methods.append(details.method.removeprefix("/"))
        return continuation(details)
