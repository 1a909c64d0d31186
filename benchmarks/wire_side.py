"""One side of `wire.py`: callers that make requests without pause to a server, or to an engine in this process.

It runs until the process is ended.

    python benchmarks/wire_side.py COUNTER --streams 64 --max-tokens 64 --address 127.0.0.1:50051
    python benchmarks/wire_side.py COUNTER --streams 64 --max-tokens 64 --model DIRECTORY
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import uvloop
from index_grpc_client import AsyncClient
from serving import in_process
from turns import Counter

from index_grpc.bench.workload import Prompt, Workload, fit_words
from index_grpc.chat import Chat
from index_grpc.datatypes import Message, Role, SamplingParams, TokenRequest
from index_grpc.machine import batch_threads

PROMPT_TOKENS = 64
SEED = 0

Ask = Callable[[Prompt], Awaitable[None]]


def over_the_wire(client: AsyncClient, max_tokens: int, counter: Counter) -> Ask:
    """A function that calls the server and counts tokens as their messages come."""

    async def ask(prompt: Prompt) -> None:
        counted = 0
        async with client.chat_stream(prompt.text, seed=prompt.seed, max_tokens=max_tokens) as stream:
            async for chunk in stream:  # a message has one token, or more if the server was late
                number = 1 if chunk.finish is None else chunk.finish.usage.completion_tokens - counted
                counter.add(number)
                counted += number

    return ask


def directly(chat: Chat, max_tokens: int, counter: Counter) -> Ask:
    """A function that calls the engine and counts tokens as they come."""

    async def ask(prompt: Prompt) -> None:
        ids = await chat.prompt_ids([Message(Role.USER, prompt.text)])
        sampling = SamplingParams(seed=prompt.seed)
        request = TokenRequest("bench", ids, sampling, max_tokens, arrival=time.monotonic())
        with chat.engine.submit(request) as outputs:
            async for output in outputs:
                counter.add(len(output.tokens))

    return ask


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[tuple[Ask, Workload]]:
    """A function that makes a request, and the workload."""
    counter = Counter(options.counter)
    if options.address:
        with batch_threads():
            client = AsyncClient(options.address)
        async with client:
            yield over_the_wire(client, options.max_tokens, counter), await workload(client)
    else:
        settings = {"model": options.model, "max_sequences": options.streams, "prefix_reuse": False}
        async with in_process(**settings) as (app, address):
            async with AsyncClient(address) as client:
                chosen = await workload(client)
            assert app.answering.backend is not None
            yield directly(app.answering.backend.chat, options.max_tokens, counter), chosen


async def workload(client: AsyncClient) -> Workload:
    """Prompts of about PROMPT_TOKENS tokens, as the server counts them."""
    return Workload(SEED, await fit_words(client, SEED, PROMPT_TOKENS))


async def call(options: argparse.Namespace) -> None:
    """Makes requests until the process is ended."""
    async with opened(options) as (ask, prompts):
        numbers = count()

        async def caller() -> None:
            while True:
                await ask(prompts.prompt("wire", next(numbers)))

        await asyncio.gather(*(caller() for _ in range(options.streams)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counter", type=Path, help="a file, in whose memory tokens are counted")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--address", help="of the server to ask")
    way.add_argument("--model", help="a checkpoint's directory, to ask an engine of this process")
    uvloop.run(call(parser.parse_args()))


if __name__ == "__main__":
    main()
