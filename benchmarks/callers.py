"""Callers of every kind, good and bad, that check what the server promises; `soak.py` lets them call a server."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration
from index_grpc_client.status import StatusDetails, status_details
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

if TYPE_CHECKING:
    from index_grpc_client.v1.chat_pb2_grpc import ChatServiceAsyncStub

    Stub = ChatServiceAsyncStub
    Stream = grpc.aio.UnaryStreamCall[pb.ChatRequest, pb.ChatStreamResponse]
else:
    Stub, Stream = ChatServiceStub, grpc.aio.UnaryStreamCall

PROMPTS = ("Tell me a story.", "你好", "Who are you?", "Count to five.", "讲个故事", "What is the capital of France?")
NUM_SEEDS = 4
MOST_TOKENS = 96
LONGEST_CALL_SECONDS = 120.0
SHORTEST_DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS = 0.002, 1.0
LONGEST_PAUSE_SECONDS = 1.0
"""The longest pause of a refused caller, whatever the server asks for: callers must keep the server under load."""
MOST_RECORDED = 20
"""How many broken promises are recorded in full."""


class BrokenPromise(Exception):
    """Something that must never happen to a caller; the text says what."""


@dataclass
class Ledger:
    """The outcomes of all calls."""

    outcomes: Counter[str] = field(default_factory=Counter)
    num_broken: int = 0
    broken: list[str] = field(default_factory=list)

    def note_broken(self, what: str) -> None:
        """Counts a broken promise, and keeps the first ones."""
        self.num_broken += 1
        if len(self.broken) < MOST_RECORDED:
            self.broken.append(what)


@dataclass(frozen=True)
class Question:
    """A request with its only right answer."""

    request: pb.ChatRequest
    answer: str

    def check(self, text: str, finish: pb.Finish) -> str:
        """Checks an answer and returns the outcome. A time limit may shorten the right answer, but not change it."""
        if finish.reason == pb.FINISH_REASON_TIME_LIMIT:
            if not self.answer.startswith(text):
                raise BrokenPromise(f"{self.request.prompt!r}: {text!r} is no beginning of {self.answer!r}")
            return "cut short by time"
        if text != self.answer:
            raise BrokenPromise(f"{self.request.prompt!r}: {text!r} instead of {self.answer!r}")
        return "answered"


async def questions(stub: Stub) -> list[Question]:
    """Asks an idle server one question at a time, to learn the right answers."""
    known = []
    for prompt in PROMPTS:
        for seed in range(NUM_SEEDS):
            request = pb.ChatRequest(prompt=prompt, max_tokens=MOST_TOKENS // (1 + seed % 3))
            request.sampling.seed = seed
            known.append(Question(request, (await stub.Chat(request)).response))
    return known


class Caller:
    """Makes one call after another, of random kinds, and checks what was promised for each."""

    def __init__(self, address: str, known: list[Question], seed: str, ledger: Ledger) -> None:
        self._known, self._draw, self._ledger = known, random.Random(seed), ledger
        # Retries would hide refusals, and real callers have separate connections.
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(address, options)
        self._stub: Stub = ChatServiceStub(self._channel)
        kinds = [(self.unary, 4), (self.stream, 4), (self.deadline, 2), (self.time_limit, 1)]
        kinds += [(self.cancelled_unary, 1), (self.cancelled_stream, 2), (self.bad, 2), (self.count, 1)]
        self._kinds: list[Callable[[Question], Awaitable[str]]] = [
            kind for kind, weight in kinds for _ in range(weight)
        ]

    async def work(self, over: asyncio.Event) -> None:
        """Makes calls until `over` is set, and completes the last one."""
        while not over.is_set():
            pause = await self.one_call()
            await asyncio.sleep(pause)
        await self._channel.close(None)

    async def one_call(self) -> float:
        """Makes a call and records its outcome; returns how many seconds to pause."""
        kind, question = self._draw.choice(self._kinds), self._draw.choice(self._known)
        pause = 0.0
        try:
            outcome = await kind(question)
        except grpc.aio.AioRpcError as error:
            try:
                outcome, pause = refused(error, has_little_time=kind in (self.deadline, self.time_limit))
            except BrokenPromise as broken:
                outcome = "broken promise"
                self._ledger.note_broken(f"{kind.__name__}: {broken}")
        except BrokenPromise as broken:
            outcome = "broken promise"
            self._ledger.note_broken(f"{kind.__name__}: {broken}")
        self._ledger.outcomes[outcome] += 1
        return pause

    async def unary(self, question: Question) -> str:
        """Gets a whole answer."""
        response = await self._stub.Chat(question.request, timeout=LONGEST_CALL_SECONDS)
        return question.check(response.response, response.finish)

    async def stream(self, question: Question) -> str:
        """Gets an answer as a stream."""
        return await self._read(self._stub.ChatStream(question.request, timeout=LONGEST_CALL_SECONDS), question)

    async def deadline(self, question: Question) -> str:
        """Gets a stream with a short or far too short deadline."""
        seconds = self._draw.uniform(SHORTEST_DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS)
        return await self._read(self._stub.ChatStream(question.request, timeout=seconds), question)

    async def time_limit(self, question: Question) -> str:
        """Gets an answer with a short time limit in the request."""
        limit = Duration()
        limit.FromMilliseconds(self._draw.randrange(10, 1000))
        request = pb.ChatRequest(time_limit=limit)
        request.MergeFrom(question.request)
        response = await self._stub.Chat(request, timeout=LONGEST_CALL_SECONDS)
        return question.check(response.response, response.finish)

    async def cancelled_unary(self, question: Question) -> str:
        """Cancels a call before the answer."""
        call = self._stub.Chat(question.request, timeout=LONGEST_CALL_SECONDS)
        await asyncio.wait({asyncio.ensure_future(call.code())}, timeout=self._draw.uniform(0, 0.3))
        if call.cancel():
            return "cancelled"
        response = await call
        return question.check(response.response, response.finish)

    async def cancelled_stream(self, question: Question) -> str:
        """Cancels a stream after a few messages."""
        call = self._stub.ChatStream(question.request, timeout=LONGEST_CALL_SECONDS)
        messages = aiter(call)
        for _ in range(self._draw.randrange(4)):
            await anext(messages, None)
        call.cancel()
        return "cancelled"

    async def bad(self, question: Question) -> str:
        """Sends a wrong request, which a server that has places refuses with all its errors."""
        request = pb.ChatRequest(prompt="", max_tokens=0, stop=[""], sampling=pb.SamplingParams(temperature=9))
        try:
            await self._stub.Chat(request, timeout=LONGEST_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            fields = {found.field for found in details(error).violations}
            if fields == {"prompt", "max_tokens", "stop[0]", "sampling.temperature"}:
                return "bad request refused"
            raise BrokenPromise(f"a bad request ended with {error.code().name}, fields {sorted(fields)}") from None
        raise BrokenPromise("a bad request was answered")

    async def count(self, question: Question) -> str:
        """Makes calls that need no place, which must be answered under any load."""
        try:
            await self._stub.CountTokens(pb.CountTokensRequest(prompt=question.request.prompt))
            await self._stub.GetModel(pb.GetModelRequest())
        except grpc.aio.AioRpcError as error:
            raise BrokenPromise(f"ended with {error.code().name}: {error.details()}") from None
        return "counted"

    async def _read(self, call: Stream, question: Question) -> str:
        text, finish, num_messages = "", None, 0
        async for message in call:
            num_messages += 1
            if finish is not None or message.HasField("start") != (num_messages == 1):
                raise BrokenPromise("start is not in the first message only, or something comes after finish")
            text += message.delta
            finish = message.finish if message.HasField("finish") else None
        if finish is None:
            raise BrokenPromise("a stream ended well and without finish")
        return question.check(text, finish)


def details(error: grpc.aio.AioRpcError) -> StatusDetails:
    """The status details of a failed call."""
    trailers: Any = error.trailing_metadata()
    return status_details(trailers or ())


def refused(error: grpc.aio.AioRpcError, has_little_time: bool) -> tuple[str, float]:
    """The outcome of a refusal, and how long to pause. Raises BrokenPromise if the error is not a proper refusal."""
    found = details(error)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and has_little_time:  # from the server, or from gRPC itself
        return "deadline", 0.0
    if error.code() is grpc.StatusCode.UNAVAILABLE and found.reason == "OVERLOADED":
        if not found.retry_after or not found.request_id:
            raise BrokenPromise("a refusal does not say when to come again")
        return "refused", min(found.retry_after, LONGEST_PAUSE_SECONDS)
    raise BrokenPromise(f"{error.code().name} {found.reason}: {error.details()}")
