"""Reuse of earlier turns: the seeded texts are the same with and without it, and less is computed."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from tests.conftest import serving, settings
from tests.server.asking import Stub

NUM_CONVERSATIONS = int(os.environ.get("NUM_CONVERSATIONS", "24"))
NUM_TURNS = 4
NUM_AT_ONCE = 12
OPENINGS = [
    "你好，请介绍一下你自己，" * 4,
    "Tell me a story about a fox and a train, please. " * 3,
    "1, 2, 3, 4, 5, 6, 7. " * 4,
]


@pytest.fixture
async def stubs(checkpoint: Path) -> AsyncIterator[tuple[Stub, Stub]]:
    """Two servers on the same checkpoint, with and without reuse."""
    async with AsyncExitStack() as stack:
        both: list[Stub] = []
        for prefix_reuse in (True, False):
            chosen = settings(checkpoint, prefix_reuse=prefix_reuse, max_sequences=8)
            _, address = await stack.enter_async_context(serving(chosen))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            both.append(ChatServiceStub(channel))
        yield both[0], both[1]


async def all_conversations(stub: Stub) -> list[list[tuple[str, int]]]:
    """Holds all conversations, a few at a time, so that a prefix is still kept when the next turn comes."""
    places = asyncio.Semaphore(NUM_AT_ONCE)

    async def one(number: int) -> list[tuple[str, int]]:
        async with places:
            return await conversation(stub, number)

    return list(await asyncio.gather(*map(one, range(NUM_CONVERSATIONS))))


async def conversation(stub: Stub, number: int) -> list[tuple[str, int]]:
    """The texts of a seeded conversation's answers, and how many tokens of each prompt were reused."""
    rng = random.Random(number)
    history: list[pb.Message] = []
    answers = []
    for turn in range(NUM_TURNS):
        prompt = OPENINGS[number % len(OPENINGS)] if turn == 0 else rng.choice(["再说一遍", "Go on.", "x y z " * 5])
        sampling = pb.SamplingParams(seed=rng.getrandbits(32))
        asked = pb.ChatRequest(prompt=prompt, history=history, sampling=sampling, max_tokens=rng.randint(4, 30))
        response = await stub.Chat(asked)
        answers.append((response.response, response.finish.usage.cached_prompt_tokens))
        history = list(response.history)
    return answers


async def test_texts_are_the_same_with_reuse_and_without(stubs: tuple[Stub, Stub]) -> None:
    with_reuse, without = [await all_conversations(stub) for stub in stubs]
    assert [[text for text, _ in answers] for answers in with_reuse] == [
        [text for text, _ in answers] for answers in without
    ]
    assert not any(cached for answers in without for _, cached in answers)
    assert all(first < last for (_, first), *_, (_, last) in with_reuse)
