"""Calls end at their timeouts, even if a server's health changes meanwhile."""

import threading
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from index_grpc_client import Client, DeadlineError, UnavailableError
from index_grpc_client.channel import SERVICE
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceServicer, add_ChatServiceServicer_to_server

NUM_CALLERS = 12
TIMEOUT_SECONDS = 5.0
ENDS = (UnavailableError, DeadlineError)
"""Which comes first, the last refusal or the timeout, depends on the machine."""


class Refusing(ChatServiceServicer):  # the tests do not make the other calls
    """Refuses each call, asks the caller to retry in a second, and changes the health each time."""

    def __init__(self, turn: "threading.Event") -> None:
        self.turn = turn

    def ChatStream(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "1000"),))
        self.turn.set()
        context.abort(grpc.StatusCode.UNAVAILABLE, "the engine broke")


def test_calls_end_although_they_are_refused_while_health_changes() -> None:
    turn = threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(2 * NUM_CALLERS))
    told = health.HealthServicer()
    told.set(SERVICE, HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(told, server)
    add_ChatServiceServicer_to_server(Refusing(turn), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    def call(_: int) -> None:
        with Client(f"127.0.0.1:{port}", timeout=TIMEOUT_SECONDS) as client, pytest.raises(ENDS):
            for _chunk in client.chat_stream("Hi"):
                pass

    with futures.ThreadPoolExecutor(NUM_CALLERS) as callers:
        calls = [callers.submit(call, number) for number in range(NUM_CALLERS)]
        assert turn.wait(30)
        told.set(SERVICE, HealthCheckResponse.NOT_SERVING)
        for one in calls:
            one.result(timeout=60)
    server.stop(None)
