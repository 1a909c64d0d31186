"""Our engine in a separate process, as the server runs it, called through `Engine` without gRPC."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise

from index_grpc.datatypes import SamplingParams, TokenRequest
from index_grpc.engine.engine import Engine, EngineEvents
from index_grpc.engine.orders import StepReport
from index_grpc.engine.process import ProcessWorker
from index_grpc.launch import load
from index_grpc.settings import ServeSettings
from index_grpc.text.layout import ASSISTANT_ID, USER_ID
from index_grpc.text.tokenizer import NUM_CONTROL_IDS

STOP_SECONDS = 20.0


@dataclass(frozen=True)
class DecodeStep:
    """A step in which all sequences decoded and nothing else was computed."""

    seconds: float
    num_positions: int
    """Positions of all contexts together."""


@dataclass(frozen=True)
class Round:
    """The results of requests that came at once; times are seconds from their arrival."""

    seconds: float
    num_tokens: int
    first_token_s: list[float]
    steps: list[DecodeStep]

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of all answers together."""
        return self.num_tokens / self.seconds


class Door:
    """A running engine. Records each step's report with the instant at which it comes."""

    def __init__(self, settings: ServeSettings) -> None:
        """Loads the model. Raises StartupError."""
        loaded = load(settings)
        self._worker, self._vocab_size = loaded.worker, loaded.model.vocab_size
        self._news: list[tuple[float, StepReport]] = []
        events = EngineEvents(stepped=lambda step: self._news.append((time.perf_counter(), step)))
        self.engine = Engine(loaded.worker, loaded.limits, events)

    @property
    def reports(self) -> list[StepReport]:
        """Reports of the steps of the last round."""
        return [step for _, step in self._news]

    def prompts(self, key: str, lengths: Sequence[int]) -> list[list[int]]:
        """Random prompts; the same key gives the same prompts."""
        draw, ids = random.Random(key), range(NUM_CONTROL_IDS, self._vocab_size)
        return [[USER_ID, *draw.choices(ids, k=length - 2), ASSISTANT_ID] for length in lengths]

    async def round(self, prompts: Sequence[list[int]], answer_tokens: Sequence[int]) -> Round:
        """Submits all prompts at once, each for an answer of exactly so many tokens."""
        self._news.clear()
        started = time.perf_counter()
        answers = await asyncio.gather(*map(self.answer, prompts, answer_tokens))
        seconds = time.perf_counter() - started
        steps = decode_steps(self._news, len(prompts), sum(map(len, prompts)))
        return Round(seconds, sum(answer_tokens), [first - started for first in answers], steps)

    async def answer(self, prompt: list[int], num_tokens: int) -> float:
        """Gets exactly `num_tokens` tokens with the default sampling; returns the instant when the first one came."""
        sampling = SamplingParams(seed=sum(prompt))
        request = TokenRequest("card", prompt, sampling, num_tokens, arrival=time.monotonic())
        first, count = 0.0, 0
        with self.engine.submit(request) as outputs:
            async for output in outputs:
                first = first or time.perf_counter()
                count += len(output.tokens)
        if count != num_tokens:
            raise RuntimeError(f"an answer has {count} tokens and should have {num_tokens}")
        return first

    async def close(self) -> None:
        """Ends the engine and waits until its memory is free."""
        await self.engine.stop(STOP_SECONDS)
        if isinstance(self._worker, ProcessWorker):
            await asyncio.to_thread(self._worker.process.wait)


@asynccontextmanager
async def opened(settings: ServeSettings) -> AsyncIterator[Door]:
    """A running engine, which is closed at the end."""
    door = Door(settings)
    await door.engine.start()
    try:
        yield door
    finally:
        await door.close()


def decode_steps(news: Sequence[tuple[float, StepReport]], num_sequences: int, num_prompt: int) -> list[DecodeStep]:
    """The steps in which all sequences decoded, timed by their reports; the step before must be such a step too."""
    generated = list(accumulate(step.num_new_tokens for _, step in news))
    return [
        DecodeStep(instant - before, num_prompt + num_generated)
        for ((before, earlier), (instant, step)), num_generated in zip(pairwise(news), generated, strict=False)
        if _all_decode(earlier, num_sequences) and _all_decode(step, num_sequences)
    ]


def _all_decode(step: StepReport, num_sequences: int) -> bool:
    return step.num_prompt_tokens == 0 and step.num_new_tokens == num_sequences
