"""More connections than the system allows open files."""

import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from tests.process import INDEX_GRPC, running
from tests.server.asking import seeded

FILES = 400
NUM_CONNECTIONS = 500
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The preface of HTTP/2 and empty settings, which suffice to keep a connection open."""


def test_connections_leave_enough_open_files_for_the_server(checkpoint: Path) -> None:
    """Open connections continue, and a lost engine can be started again."""
    command = ["prlimit", f"--nofile={FILES // 2}:{FILES}", INDEX_GRPC, "serve", "--port", "0", "--engine-process"]
    with running(*command, "--model", str(checkpoint), "--device", "cpu") as process, ExitStack() as stack:
        address = process.address()
        host, _, port = address.rpartition(":")
        channel = stack.enter_context(grpc.insecure_channel(address))
        stub = ChatServiceStub(channel)
        text = stub.Chat(seeded("Hi", seed=1)).response
        for _ in range(NUM_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            with suppress(ConnectionError):  # one connection too many
                connection.sendall(HELLO)
        (engine,) = process.children
        engine.kill()
        process.wait_for("the engine has been restarted")
        assert stub.Chat(seeded("Hi", seed=1)).response == text
