"""Refused requests are freed, however large they are: memory does not grow with what callers send."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.access.keys import fingerprint
from tests.process import Process, serving

MIB = 2**20
LARGE = "a" * (8 * MIB)
NUM_CALLS = 20
MOST_GROWTH = 100 * MIB
"""The most that memory may grow while a server gets another 160 MiB."""
REFUSED: dict[str, pb.ChatRequest | bytes] = {
    "too long": pb.ChatRequest(prompt=LARGE),
    "out of range": pb.ChatRequest(prompt=LARGE, sampling=pb.SamplingParams(temperature=9)),
    "another model": pb.ChatRequest(prompt=LARGE, model="another"),
    "not even a message": LARGE.encode(),
}
HEALTH, REFLECTION = "/grpc.health.v1.Health", "/grpc.reflection.v1.ServerReflection"
NAMED = HealthCheckRequest(service=LARGE).SerializeToString()
REFUSED_BY_OTHERS: dict[str, bytes] = {
    f"{HEALTH}/Check": NAMED,
    f"{HEALTH}/List": NAMED[:-1],
    f"{HEALTH}/Watch": NAMED[:-1],
    f"{REFLECTION}/ServerReflectionInfo": NAMED[:-1],
}
"""Requests to services other than the chat service: an unknown name, and bytes that do not parse."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(f"[keys.alice]\nhash = '{fingerprint('alice')}'\n")
    with serving("--port", "0", "--http-port", "0", "--api-keys-file", str(keys)) as process:
        process.wait_for("ready in")
        yield process


def growth(server: Process, call: Callable[[], None]) -> int:
    """By how many bytes the server's memory grows with many calls, after a few first ones."""
    process = psutil.Process(server.pid)
    for _ in range(4):
        call()
    before = process.memory_info().rss
    for _ in range(NUM_CALLS):
        call()
    return int(process.memory_info().rss - before)


def grpc_channel(server: Process) -> grpc.Channel:
    return grpc.insecure_channel(server.wait_for(r"--address (\S+)")[1], [("grpc.max_send_message_length", -1)])


def calling(
    server: Process, request: pb.ChatRequest | bytes, key: str = "alice", path: str = "/index.v1.ChatService/Chat"
) -> Callable[[], None]:
    """A function that makes a call over gRPC, which is refused."""
    method: Any = grpc_channel(server).unary_unary(path, None, None)
    data = request if isinstance(request, bytes) else request.SerializeToString()

    def call() -> None:
        with pytest.raises(grpc.RpcError):
            method(data, metadata=[("authorization", f"Bearer {key}")], timeout=60)

    return call


@pytest.mark.parametrize("name", REFUSED)
def test_requests_refused_over_grpc_are_freed(server: Process, name: str) -> None:
    assert growth(server, calling(server, REFUSED[name])) < MOST_GROWTH


def test_requests_without_a_valid_key_are_freed(server: Process) -> None:
    assert growth(server, calling(server, REFUSED["too long"], key="mallory")) < MOST_GROWTH


@pytest.mark.parametrize("path", REFUSED_BY_OTHERS)
def test_requests_refused_by_other_services_are_freed(server: Process, path: str) -> None:
    assert growth(server, calling(server, REFUSED_BY_OTHERS[path], path=path)) < MOST_GROWTH


def post_large(connection: http.client.HTTPConnection) -> None:
    """Makes a call over HTTP, which is refused."""
    body = f'{{"messages": [{{"role": "user", "content": "{LARGE}"}}]}}'
    headers = {"authorization": "Bearer alice", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    assert response.status == http.client.BAD_REQUEST
    response.read()


def http_connection(server: Process) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.wait_for(r"listening on http://(\S+)")[1], timeout=60)


def test_requests_refused_over_http_are_freed(server: Process) -> None:
    def call() -> None:
        with closing(http_connection(server)) as connection:
            post_large(connection)

    assert growth(server, call) < MOST_GROWTH


def test_idle_http_connections_keep_no_requests(server: Process) -> None:
    with ExitStack() as idle:

        def call() -> None:
            post_large(idle.enter_context(closing(http_connection(server))))

        assert growth(server, call) < MOST_GROWTH
