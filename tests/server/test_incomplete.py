"""Calls that end before their message is complete get a status at once; calls whose caller left get none."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.server.servicer import SERVICE
from tests.server.asking import unary
from tests.server.fake_runner import fake_server, letters
from tests.server.raw import answer_to

REQUEST, TEXT = pb.ChatRequest(prompt="Hi", max_tokens=20), letters(20)
CUT = b"\0\0\0\0\x09" + REQUEST.SerializeToString()[:2]
METHODS = [f"/{SERVICE}/{name}" for name in ("Chat", "ChatStream", "CountTokens", "GetModel")]
HEALTH = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]


@pytest.mark.parametrize("data", [b"", CUT], ids=["nothing", "cut"])
@pytest.mark.parametrize("path", [*METHODS, *HEALTH])
async def test_a_call_without_a_message_is_refused(path: str, data: bytes) -> None:
    async with fake_server() as server:
        found = await asyncio.to_thread(answer_to, server.address, path, data)
        assert found["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
        assert "no complete message arrived" in found["grpc-message"]
        assert await unary(server.stub, REQUEST) == TEXT


async def test_callers_that_leave_before_their_message_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "index_grpc.calls")
    async with fake_server() as server:
        for path in METHODS:
            call: Any = server.channel.stream_stream(path, None, None)
            begun = call()
            await begun.wait_for_connection()
            begun.cancel()
        assert await unary(server.stub, REQUEST) == TEXT
    assert len(caplog.records) == 1, "only the call that was made whole"
