"""The same seed gives the same text, whatever shares the batch and however it is asked for."""

import asyncio
import random

from index_grpc_client.v1 import chat_pb2 as pb

from tests.conftest import MAX_SEQUENCES
from tests.server.asking import Stub, seeded, streamed, unary

PROMPTS = [
    "你好，请介绍一下你自己。",
    "Tell me a story about a fox and a train, please.",
    "1, 2, 3",
    "😀 emoji 👩‍🚀?",
    "x" * 100,
]


def neighbour(rng: random.Random) -> pb.ChatRequest:
    """Any request at all: every sampling parameter at random."""
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


async def test_alone_and_among_neighbours_by_chat_and_by_stream(stub: Stub) -> None:
    rng = random.Random(7)
    for number, prompt in enumerate(PROMPTS):
        request = seeded(prompt, seed=number)
        alone = (await stub.Chat(request)).response
        for ask in (streamed, unary):
            neighbours = [asyncio.create_task(unary(stub, neighbour(rng))) for _ in range(MAX_SEQUENCES - 1)]
            assert await ask(stub, request) == alone
            await asyncio.gather(*neighbours)


async def test_different_seeds_give_different_texts(stub: Stub) -> None:
    texts = {await unary(stub, seeded("你好", seed)) for seed in range(8)}
    assert len(texts) > 4


async def test_an_unset_seed_is_reported_and_repeats_the_answer(stub: Stub) -> None:
    first = await stub.Chat(pb.ChatRequest(prompt="你好", max_tokens=20))
    second = await stub.Chat(seeded("你好", first.seed, max_tokens=20))
    assert second.response == first.response
