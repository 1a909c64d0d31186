"""Helpers for an engine without a server: token ids in, token ids out."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from index_grpc.datatypes import FinishReason, SamplingParams, Token, TokenRequest
from index_grpc.engine.engine import Engine
from index_grpc.engine.in_flight import Runner
from index_grpc.engine.limits import Limits
from index_grpc.engine.worker import ThreadWorker

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)


@asynccontextmanager
async def running(runner: Runner, limits: Limits) -> AsyncIterator[Engine]:
    """A started engine, which is stopped at the end."""
    engine = Engine(ThreadWorker(runner, limits), limits)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(timeout_seconds=60)


async def generate(
    engine: Engine, ids: Sequence[int], sampling: SamplingParams = GREEDY, max_tokens: int = 16, **fields: object
) -> list[int]:
    """The ids of one answer."""
    request = TokenRequest(id="test", prompt_ids=ids, sampling=sampling, max_tokens=max_tokens, **fields)  # type: ignore[arg-type]
    tokens, _ = await collect(engine, request)
    return [token.id for token in tokens]


async def collect(engine: Engine, request: TokenRequest) -> tuple[list[Token], FinishReason | None]:
    """All tokens of one answer and why it finished."""
    tokens: list[Token] = []
    reason = None
    with engine.submit(request) as outputs:
        async for output in outputs:
            assert output.tokens
            assert reason is None
            tokens += output.tokens
            reason = output.reason
    return tokens, reason


async def generate_all(engine: Engine, prompts: Sequence[Sequence[int]], sampling: SamplingParams) -> list[list[int]]:
    """Answers to prompts sent at once."""
    return list(await asyncio.gather(*(generate(engine, ids, sampling) for ids in prompts)))
