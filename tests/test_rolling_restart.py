"""No call fails while two servers, between which clients balance, are restarted in turn."""

import asyncio
import itertools
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
from index_grpc_client import AsyncClient
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from tests.process import Process, serving
from tests.server.asking import Stub, seeded

CHAT = "index.v1.ChatService"
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": CHAT}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}
"""A service config for clients without code of ours."""
NUM_CALLERS = 1
"""For each client, callers with unary calls, and callers with streams; each always has a call open."""
NUM_TOKENS = 60
SEED = 5

Ask = Callable[[str], Awaitable[str]]
"""Makes a call with this request id and returns the answer's text."""


@asynccontextmanager
async def stock(target: str) -> AsyncIterator[list[Ask]]:
    """Unary calls and streams of the plain stub."""
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    async with grpc.aio.insecure_channel(target, options) as channel:
        stub: Stub = ChatServiceStub(channel)
        request = seeded("你好", SEED, NUM_TOKENS)

        async def unary(request_id: str) -> str:
            return (await stub.Chat(request, metadata=(("x-request-id", request_id),))).response

        async def stream(request_id: str) -> str:
            call = stub.ChatStream(request, metadata=(("x-request-id", request_id),))
            return "".join([message.delta async for message in call])

        yield [unary, stream]


@asynccontextmanager
async def bundled(target: str) -> AsyncIterator[list[Ask]]:
    """Unary calls and streams of our client."""
    async with AsyncClient(target) as client:

        async def unary(request_id: str) -> str:
            return (await client.chat("你好", seed=SEED, max_tokens=NUM_TOKENS, request_id=request_id)).text

        async def stream(request_id: str) -> str:
            answer = client.chat_stream("你好", seed=SEED, max_tokens=NUM_TOKENS, request_id=request_id)
            return "".join([chunk.delta async for chunk in answer])

        yield [unary, stream]


CLIENTS = {"stock": stock, "bundled": bundled}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(stack: AsyncExitStack, checkpoint: Path, port: int) -> Process:
    places = ("--device", "cpu", "--threads", "1", "--drain-delay-seconds", "0.5")
    return stack.enter_context(serving("--model", str(checkpoint), "--port", str(port), *places))


async def until_all_clients_are_answered(process: Process) -> None:
    """Waits until each client has been answered by this server."""
    for name in CLIENTS:
        await asyncio.to_thread(process.wait_for, rf"id={name}-\S+ method=\S+ code=OK")


async def restart_in_turn(stack: AsyncExitStack, processes: dict[int, Process], checkpoint: Path) -> None:
    for port, process in processes.items():
        process.send(signal.SIGTERM)
        assert await asyncio.to_thread(process.exit_code) == 0
        await until_all_clients_are_answered(start(stack, checkpoint, port))


async def keep_asking(name: str, ask: Ask, texts: list[str], over: asyncio.Event) -> None:
    for number in itertools.count():
        if over.is_set():
            return
        texts.append(await ask(f"{name}-{number}"))


async def test_no_call_fails(checkpoint: Path) -> None:
    over, texts = asyncio.Event(), list[str]()
    async with AsyncExitStack() as stack:
        ports = [free_port(), free_port()]
        processes = {port: start(stack, checkpoint, port) for port in ports}
        for process in processes.values():
            await asyncio.to_thread(process.address)
        target = f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
        async with asyncio.TaskGroup() as group:  # a failed call ends the test
            for name, connected in CLIENTS.items():
                for ask in NUM_CALLERS * await stack.enter_async_context(connected(target)):
                    group.create_task(keep_asking(name, ask, texts, over))
            for process in processes.values():
                await until_all_clients_are_answered(process)
            await restart_in_turn(stack, processes, checkpoint)
            over.set()
    assert len(set(texts)) == 1
