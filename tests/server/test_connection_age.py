"""Connections that reach their maximum age are replaced; their calls may complete within the grace period."""

import asyncio

import grpc
from index_grpc_client.v1 import chat_pb2 as pb

from tests.server.asking import streamed, unary
from tests.server.fake_runner import fake_server, letters

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=20)


async def test_a_stream_outlives_its_connections_age() -> None:
    async with fake_server(max_connection_age_seconds=1) as server:
        server.runner.gate.clear()
        held = asyncio.create_task(streamed(server.stub, REQUEST))
        await server.until_num_open(1)
        assert server.channel.get_state() is grpc.ChannelConnectivity.READY
        await asyncio.wait_for(server.channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 60)
        server.runner.gate.set()
        assert await held == letters(20)
        assert await unary(server.stub, REQUEST) == letters(20)


async def test_a_call_is_ended_when_the_grace_is_over() -> None:
    async with fake_server(max_connection_age_seconds=1, max_connection_age_grace_seconds=1) as server:
        server.runner.gate.clear()
        call = server.stub.Chat(REQUEST)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        server.runner.gate.set()
        await server.until_num_open(0)
