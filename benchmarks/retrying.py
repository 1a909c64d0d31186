"""Standard gRPC clients without any code of ours, with only a retry policy in their service config."""

import asyncio
import json
import random
import time

import grpc
from callers import LONGEST_CALL_SECONDS, MOST_RECORDED, BrokenPromise, Question, Stub
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.bench.workload import poisson_arrivals

POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
SERVICE_CONFIG = {"methodConfig": [{"name": [{"service": "index.v1.ChatService"}], "retryPolicy": POLICY}]}


class Retried:
    """Calls that arrive at random times, and their outcomes."""

    def __init__(self, address: str, known: list[Question]) -> None:
        self.num_answered = self.num_broken = self.num_refused = 0
        self.broken: list[str] = []
        self.known, self._address = known, address

    def add(self, other: "Retried") -> None:
        """Adds the counts of another one."""
        self.num_answered += other.num_answered
        self.num_broken += other.num_broken
        self.num_refused += other.num_refused
        self.broken += other.broken

    async def arrive(self, seed: str, rate: float, seconds: float) -> None:
        """Makes calls independent of each other, `rate` a second on average."""
        options = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]
        draw, started = random.Random(seed), time.monotonic()
        async with grpc.aio.insecure_channel(self._address, options) as channel, asyncio.TaskGroup() as group:
            stub = ChatServiceStub(channel)
            for instant in poisson_arrivals(seed, rate):
                if instant > seconds:
                    break
                await asyncio.sleep(max(0.0, started + instant - time.monotonic()))
                group.create_task(self._ask(stub, draw.choice(self.known)))

    async def _ask(self, stub: Stub, question: Question) -> None:
        try:
            response = await stub.Chat(question.request, timeout=LONGEST_CALL_SECONDS)
            question.check(response.response, response.finish)
        except (grpc.aio.AioRpcError, BrokenPromise) as error:
            self.num_broken += 1
            if len(self.broken) < MOST_RECORDED:
                self.broken.append(f"stock client: {error}")
            return
        self.num_answered += 1


async def throughput(address: str, known: list[Question], num_callers: int, seconds: float) -> float:
    """The answers per second that the server can give when all places to run are taken and no request waits."""
    over, num_answers = time.monotonic() + seconds, 0

    async def work(stub: Stub, number: int) -> None:
        nonlocal num_answers
        draw = random.Random(number)
        while time.monotonic() < over:
            await stub.Chat(draw.choice(known).request)
            num_answers += 1

    started = time.monotonic()
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        for number in range(num_callers):
            group.create_task(work(ChatServiceStub(channel), number))
    return num_answers / (time.monotonic() - started)
