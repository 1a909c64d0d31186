"""The same seed gives the same text, whatever else is in the batch and with every call."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from tests.conftest import serving, settings
from tests.engine.kernels import NATIVE, PYTORCH, compute_with
from tests.server.asking import Stub, seeded, streamed, unary

NUM_NEIGHBOURS = 32

PROMPTS = [
    "你好，请介绍一下你自己。",
    "Tell me a story about a fox and a train, please.",
    "1, 2, 3",
    "😀 emoji 👩‍🚀?",
    "x" * 100,
]


def neighbour(rng: random.Random) -> pb.ChatRequest:
    """A request with random sampling parameters."""
    sampling = pb.SamplingParams(
        temperature=rng.choice([0.0, 0.5, 1.0, 2.0]),
        top_k=rng.choice([0, 1, 5, 64, 65, 400]),
        top_p=rng.choice([0.1, 0.7, 1.0]),
        min_p=rng.choice([0.0, 0.2]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        frequency_penalty=rng.choice([0.0, 1.0]),
        presence_penalty=rng.choice([0.0, -1.0]),
        seed=rng.getrandbits(32),
    )
    return pb.ChatRequest(
        prompt=rng.choice(PROMPTS) * rng.randint(1, 3), sampling=sampling, max_tokens=rng.randint(1, 60)
    )


@pytest.fixture(params=["none", "int8", "pytorch"])
async def crowded(
    request: pytest.FixtureRequest, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stub]:
    """A server with room for many calls, which reuses prefixes."""
    if request.param == "pytorch":
        compute_with(monkeypatch, PYTORCH)
    elif not NATIVE:
        pytest.skip("no native kernels were built here")
    quantize = request.param if request.param == "int8" else "none"
    chosen = settings(checkpoint, quantize=quantize, max_sequences=NUM_NEIGHBOURS + 1, prefix_reuse=True)
    async with serving(chosen) as (_, address), grpc.aio.insecure_channel(address) as channel:
        yield ChatServiceStub(channel)


async def said(stub: Stub, request: pb.ChatRequest) -> tuple[str, list[pb.TokenLogprob]]:
    """The text and the log-probabilities, to compare bit for bit."""
    answer = await stub.Chat(request)
    return answer.response, list(answer.logprobs)


async def test_an_answer_is_the_same_to_the_last_bit_alone_and_among_others(crowded: Stub) -> None:
    rng = random.Random(7)
    for number, prompt in enumerate(PROMPTS):
        request = seeded(prompt, seed=number)
        request.logprobs, request.top_logprobs = True, 3
        alone = await said(crowded, request)
        for _ in range(2):
            neighbours = [asyncio.create_task(unary(crowded, neighbour(rng))) for _ in range(NUM_NEIGHBOURS)]
            assert await said(crowded, request) == alone
            assert await streamed(crowded, request) == alone[0]
            await asyncio.gather(*neighbours)


async def test_different_seeds_give_different_texts(stub: Stub) -> None:
    texts = {await unary(stub, seeded("你好", seed)) for seed in range(8)}
    assert len(texts) > 4


async def test_an_unset_seed_is_reported_and_repeats_the_answer(stub: Stub) -> None:
    first = await stub.Chat(pb.ChatRequest(prompt="你好", max_tokens=20))
    second = await stub.Chat(seeded("你好", first.seed, max_tokens=20))
    assert second.response == first.response
