"""Requires an API key for services other than the chat service, which checks keys itself."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import grpc

from index_grpc.access.gate import Gate
from index_grpc.errors import IndexGrpcError
from index_grpc.server.call import authorization, request_id
from index_grpc.server.interceptor import Handler, Interceptor
from index_grpc.server.orca import OPEN_RCA_SERVICE
from index_grpc.server.status import Context, abort

WATCHED_BY_CHANNELS = ("/grpc.health.v1.Health/Watch", f"/{OPEN_RCA_SERVICE}/StreamCoreMetrics")
"""Methods that gRPC itself calls on a client's behalf, to balance calls. It sends no key with them."""


class KeyInterceptor(Interceptor):
    """Requires a key for calls to the given services. Such calls do not count against the key's limits."""

    def __init__(self, gate: Gate, services: Sequence[str]) -> None:
        self._gate, self._prefixes = gate, tuple(f"/{service}/" for service in services)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        if details.method.startswith(self._prefixes):
            metadata = dict(details.invocation_metadata or ())
            try:
                self._gate.caller(authorization(metadata))
            except IndexGrpcError as error:
                return _refusing(details.method, error, request_id(metadata))
        return await continuation(details)


def _refusing(method: str, error: IndexGrpcError, call_id: str) -> Handler:
    """Returns a handler that refuses the call. It reads nothing, so it fits methods of every kind."""

    async def refuse(requests: AsyncIterator[bytes], context: Context) -> None:
        if method in WATCHED_BY_CHANNELS:  # the channel then works without it; with other statuses it sends no calls
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"not without a key: {error}")
        await abort(context, error, call_id)

    return grpc.stream_stream_rpc_method_handler(refuse)
