"""The messages between server and engine's process: if one cannot be read or handled, the process is replaced."""

import asyncio
import pickle
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from index_grpc.engine.process import ProcessWorker
from index_grpc.launch import load
from tests.conftest import settings
from tests.server.asking import refusal, seeded, unary
from tests.server.test_engine_process import WAIT_SECONDS, kept_loaded


async def test_an_engine_whose_messages_cannot_be_read_is_replaced(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(_: asyncio.StreamReader) -> None:
        monkeypatch.undo()
        raise pickle.UnpicklingError("invalid load key")

    own = settings(checkpoint, engine_process=True)
    async with kept_loaded(lambda: load(own)) as server:
        broken = server.process
        watch = aiter(server.health.Watch(HealthCheckRequest()))
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        monkeypatch.setattr("index_grpc.engine.process.receive_async", fails)
        found = await asyncio.wait_for(refusal(server.stub.Chat(seeded("你好", seed=1))), WAIT_SECONDS)
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")
        assert (await anext(watch)).status == HealthCheckResponse.NOT_SERVING
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        assert not broken.is_running()
        assert await unary(server.stub, seeded("你好", seed=1))
    assert "invalid load key" in caplog.text


async def test_an_engine_that_cannot_read_its_orders_is_replaced(checkpoint: Path) -> None:
    own = settings(checkpoint, engine_process=True)
    async with kept_loaded(lambda: load(own)) as server:
        broken = server.process
        watch = aiter(server.health.Watch(HealthCheckRequest()))
        assert (await anext(watch)).status == HealthCheckResponse.SERVING
        assert server.app.engine is not None
        worker = server.app.engine._worker
        assert isinstance(worker, ProcessWorker)
        worker._writer.write(b"\0\0\0\1?")
        async with asyncio.timeout(WAIT_SECONDS):
            assert (await anext(watch)).status == HealthCheckResponse.NOT_SERVING
            assert (await anext(watch)).status == HealthCheckResponse.SERVING
        assert not broken.is_running()
