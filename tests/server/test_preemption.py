"""With more conversations than memory holds, some pause, and their texts stay the same."""

import asyncio
from pathlib import Path

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.model.config import position_bytes, read_config
from index_grpc.native.library import BLOCK_TOKENS
from tests.conftest import serving, settings
from tests.engine.kernels import NATIVE
from tests.server.asking import Stub, streamed
from tests.server.scraping import scraped

NUM_CALLERS, NUM_BLOCKS = 8, 12


def asked(number: int) -> pb.ChatRequest:
    """A request whose penalties make each token depend on all earlier ones."""
    sampling = pb.SamplingParams(seed=number, temperature=1.5, repetition_penalty=1.3, frequency_penalty=0.5)
    return pb.ChatRequest(prompt=f"Story {number}! " * 8, sampling=sampling, max_tokens=300)


async def texts(stub: Stub, num_at_once: int) -> list[str]:
    """The answers to all callers, of which `num_at_once` call at a time."""
    places = asyncio.Semaphore(num_at_once)

    async def one(number: int) -> str:
        async with places:
            return await streamed(stub, asked(number))

    return list(await asyncio.gather(*map(one, range(NUM_CALLERS))))


@pytest.mark.skipif(not NATIVE, reason="with PyTorch a sequence never needs a second block")
async def test_a_text_is_the_same_whether_it_had_to_pause_or_not(checkpoint: Path) -> None:
    kv_memory_bytes = NUM_BLOCKS * BLOCK_TOKENS * position_bytes(read_config(checkpoint), item_bytes=4)
    chosen = settings(checkpoint, kv_memory_bytes=kv_memory_bytes, metrics_port=0)
    async with serving(chosen) as (app, address), grpc.aio.insecure_channel(address) as channel:
        stub: Stub = ChatServiceStub(channel)
        model = await stub.GetModel(pb.GetModelRequest())
        assert model.kv_cache_tokens == NUM_BLOCKS * BLOCK_TOKENS
        alone = await texts(stub, num_at_once=1)
        assert (await scraped(app)).value("index_grpc_preemptions_total") == 0
        assert await texts(stub, num_at_once=NUM_CALLERS) == alone
        assert (await scraped(app)).value("index_grpc_preemptions_total") > 0
