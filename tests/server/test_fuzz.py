"""For any bytes as a request, the answer or error is one of ours, and the server is not affected."""

import asyncio
import gc
import logging
import os
from collections import Counter

import grpc
import psutil
from google.protobuf.message import DecodeError
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.text.layout import STOP_IDS
from tests.server.asking import MOST_TRAILER_BYTES, Refusal, Stub, read_refusal, seeded, streamed, unary
from tests.server.fake_runner import fake_server, letters
from tests.server.mutations import REQUESTS, Mutator
from tests.server.test_errors import raw_call

NUM_REQUESTS = int(os.environ.get("NUM_FUZZED_REQUESTS", "5000"))
SEED = os.environ.get("FUZZ_SEED", "fuzz")
NUM_COMPUTED = 300
NUM_CALLERS = 32
NUM_LETTERS = 5
"""Every answer ends after this many letters."""
MOST_GROWTH_BYTES = 48 * 2**20

CODES = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "PROMPT_TOO_LONG": grpc.StatusCode.INVALID_ARGUMENT,
    "MODEL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "DEADLINE_TOO_SHORT": grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""All errors that a request may get."""
INTERNALS = ("Error", "Traceback", "google.", ".py", "_pb2", "index_grpc", "upb", "wire")

log = logging.getLogger(__name__)


async def test_no_bytes_break_the_server() -> None:
    async with fake_server(max_waiting=NUM_CALLERS) as server:
        server.runner.letter_ids[NUM_LETTERS] = min(STOP_IDS)
        await fuzz(server.channel, f"{SEED} warm-up", NUM_REQUESTS // 5)
        gc.collect()
        memory = psutil.Process().memory_info().rss
        outcomes = await fuzz(server.channel, SEED, NUM_REQUESTS)
        gc.collect()
        growth = psutil.Process().memory_info().rss - memory
        log.info("%s; memory grew by %.1f MiB", outcomes, growth / 2**20)
        assert growth < MOST_GROWTH_BYTES
        assert set(outcomes) == {*CODES, "answer", "no parse"}  # every outcome that is possible has occurred
        await server.until_num_open(0)
        assert await streamed(server.stub, pb.ChatRequest(prompt="Hi")) == letters(NUM_LETTERS)


async def test_no_values_break_the_computation(channel: grpc.aio.Channel, stub: Stub) -> None:
    """Uses a real model, to which extreme numbers matter."""
    expected = await unary(stub, seeded("Hi", seed=1))
    outcomes = await fuzz(channel, "values", NUM_COMPUTED)
    assert outcomes["answer"] > NUM_COMPUTED / 5
    assert await unary(stub, seeded("Hi", seed=1)) == expected


async def fuzz(channel: grpc.aio.Channel, seed: str, number: int) -> Counter[str]:
    """Sends `number` requests and counts their outcomes."""
    mutator, outcomes = Mutator(seed), Counter[str]()
    requests = (mutator.method_and_data() for _ in range(number))

    async def work() -> None:
        for method, data in requests:
            outcomes[await outcome(channel, method, data)] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CALLERS):
            group.create_task(work())
    return outcomes


async def outcome(channel: grpc.aio.Channel, method: str, data: bytes) -> str:
    call = raw_call(channel, method, data)
    try:
        if method == "ChatStream":
            answers = [pb.ChatStreamResponse.FromString(message) async for message in call]
            assert answers[-1].HasField("finish")
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return check_refusal(read_refusal(error), method, data)
    assert parses(method, data), (method, data)
    return "answer"


def check_refusal(found: Refusal, method: str, data: bytes) -> str:
    sent = (method, data.hex(), found)
    assert found.code is CODES[found.reason], sent
    assert found.request_id, sent
    assert found.size_on_the_wire < MOST_TRAILER_BYTES, sent
    if parses(method, data):
        return found.reason
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT, sent
    assert found.message.startswith((f"request: {len(data)} bytes that do not parse; ", "request: has over ")), sent
    assert not any(word in found.message for word in INTERNALS), sent
    return "no parse"


def parses(method: str, data: bytes) -> bool:
    try:
        REQUESTS[method].FromString(data)
    except DecodeError:
        return False
    return True
