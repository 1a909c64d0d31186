"""A device that computes nothing: it answers with letters, and it waits and fails when a test wants it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

import grpc
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.datatypes import ServedModel, Token, TokenRequest
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.limits import Limits
from index_grpc.engine.sequence import Batch
from index_grpc.engine.worker import ThreadWorker
from index_grpc.launch import extra_ports
from index_grpc.server.app import App
from index_grpc.server.loaded import Loaded
from index_grpc.server.observer import Observer
from index_grpc.text.tokenizer import Tokenizer
from tests.checkpoints import make_tokenizer
from tests.conftest import settings
from tests.server.asking import Stub, until

MODEL = "fake"
CONTEXT_LENGTH = 4096
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FAILS = "fails-"
"""Requests whose ids begin like this fail."""
SECRET = "the sampler of slot 7 in /srv/secret.py"


class FakeRunner:
    """The n-th token of every answer is the n-th letter; no answer ends by itself."""

    rows_independent, run_ahead = True, 0

    def __init__(self, tokenizer: Tokenizer, step_seconds: float = 0.0) -> None:
        self.letter_ids = [tokenizer.encode(letter)[0] for letter in LETTERS]
        self.step_seconds = step_seconds
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception = RuntimeError(SECRET)
        """The exception of requests that fail."""
        self.num_runs = 0
        self.last_request: TokenRequest | None = None

    def launch(self, batch: Batch) -> Computed:
        """See Runner. Waits until the gate is open."""
        self.num_runs += 1
        assert self.gate.wait(30)
        self.last_request = batch.spans[-1].sequence.request
        time.sleep(self.step_seconds)
        if any(span.sequence.request.id.startswith(FAILS) for span in batch.spans):
            raise self.failure
        letters = [self.letter_ids[span.step % len(LETTERS)] for span in batch.spans if span.samples]
        return Computed([Token(letter) for letter in letters])


def letters(count: int) -> str:
    """The text of the first `count` tokens."""
    return (LETTERS * (count // len(LETTERS) + 1))[:count]


class FakeServer:
    """An app with a FakeRunner, and a stub to call it."""

    def __init__(self, observers: Sequence[Observer] = (), num_contexts: int | None = None, **changes: object) -> None:
        """The KV cache holds `num_contexts` whole contexts; None: one for each sequence that may run."""
        self.settings = settings(MODEL, **changes)
        self.app = App(self.settings, observers, extra_ports(self.settings))
        tokenizer = Tokenizer(make_tokenizer())
        self.runner = FakeRunner(tokenizer)
        max_sequences = self.settings.max_sequences
        assert max_sequences is not None
        limits = Limits(
            context_length=CONTEXT_LENGTH,
            max_sequences=max_sequences,
            max_waiting=self.settings.max_waiting,
            max_waiting_tokens=self.settings.max_waiting_tokens,
            num_blocks=CONTEXT_LENGTH // 64 * (num_contexts or max_sequences),
            block_tokens=64,
            chunk_tokens=64,
            alignment_tokens=64,
        )
        model = ServedModel(MODEL, CONTEXT_LENGTH, tokenizer.vocab_size, 0, "cpu", "float32", "0.1.0-cpu-fake")
        self.worker = ThreadWorker(self.runner, limits)
        self.loaded = Loaded(model, tokenizer, limits, self.worker)
        self.address = ""
        self.channel: grpc.aio.Channel
        self.stub: Stub

    async def load(self) -> None:
        """Makes the server ready."""
        await self.app.supervisor.load(lambda: self.loaded)

    async def breaks_after(self, call: Awaitable[str]) -> str:
        """Makes a call, at whose end the engine finds a leak and is lost; returns the call's text."""
        self.runner.gate.clear()
        num_runs = self.runner.num_runs
        asked = asyncio.ensure_future(call)
        await until(lambda: self.runner.num_runs > num_runs)  # now the engine has made its last check for leaks
        self.worker._loop.scheduler.free_slots.append(0)  # a slot that does not exist
        self.runner.gate.set()
        return await asked

    async def until_num_open(self, number: int) -> None:
        """Waits until the engine holds this many requests."""
        await until(lambda: self.app.engine is not None and self.app.engine.num_open == number)


@asynccontextmanager
async def fake_server(
    *, loaded: bool = True, observers: Sequence[Observer] = (), num_contexts: int | None = None, **changes: object
) -> AsyncIterator[FakeServer]:
    """A server with a fake device on a free port; at the end the gate is opened and the server stopped."""
    server = FakeServer(observers, num_contexts, **changes)
    server.address = await server.app.listen()
    async with grpc.aio.insecure_channel(server.address) as server.channel:
        server.stub = ChatServiceStub(server.channel)
        try:
            if loaded:
                await server.load()
            yield server
        finally:
            server.runner.gate.set()
            await server.app.stop()
