"""A peer: transformers' continuous batching, streamed.

It ignores the repetition penalty with a warning, so its sampled rounds compute a little less than those of the others.
Each request has its own top-k, top-p and temperature.

    python -m peers.continuous CHECKPOINT/llama --threads 2
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager

from peers.place import load
from peers.protocol import TEMPERATURE, TOP_K, TOP_P, Answer, Options, Work, serve

NO_ID = -1
PAGE_TOKENS = 256
PAGE: dict[str, Any] = {"page_size" if hasattr(ContinuousBatchingConfig, "page_size") else "block_size": PAGE_TOKENS}
"""The page size, under the name that the installed version uses."""

BATCH_TOKENS = 8192
"""The library's default when it also chooses the cache's size; otherwise it would use all memory for masks."""

RESULT_SECONDS = 600.0


class Continuous:
    """A model with its batching manager, which is made anew when a round needs another kind or size."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - transformers types fit no call
        self._model = model
        self._shape: tuple[bool, int] | None = None
        self._manager: ContinuousBatchingManager | None = None

    def prepare(self, work: Work) -> None:
        """Makes the manager: it decides for all requests whether to sample, and its default cache is too large."""
        pages = sum(-(-(len(prompt) + work.max_tokens) // PAGE_TOKENS) for prompt in work.prompts)
        if self._shape == (work.sampled, pages):
            return
        self.close()
        settings = {"do_sample": work.sampled, "eos_token_id": NO_ID, "pad_token_id": 0} | _sampling(work)
        generation = GenerationConfig.from_dict(settings)
        sizes = PAGE | {"num_blocks": 2 * pages, "max_batch_tokens": BATCH_TOKENS}
        batching = ContinuousBatchingConfig(per_request_processors=True, **sizes)
        self._manager = self._model.init_continuous_batching(generation, batching)
        self._manager.warmup()
        self._manager.start()
        self._shape = (work.sampled, pages)

    def answer(self, work: Work) -> list[Answer]:
        """Adds all requests, then reads their outputs as they come. Raises RuntimeError if the manager fails."""
        assert self._manager
        sampling = _sampling(work)
        names = self._manager.add_requests(work.prompts, max_new_tokens=work.max_tokens, streaming=True, **sampling)
        instants: dict[str, list[float]] = {name: [] for name in names}
        ids: dict[str, list[int]] = {}
        while len(ids) < len(names):
            output = self._manager.get_result(timeout=RESULT_SECONDS)
            if output is None or output.error:
                raise RuntimeError(output.error if output else f"no output within {RESULT_SECONDS:g} s")
            instants[output.request_id].append(time.perf_counter())
            if output.is_finished():
                ids[output.request_id] = output.generated_tokens
        return [Answer(instants[name], len(ids[name]), ids[name]) for name in names]

    def close(self) -> None:
        """Ends the manager's thread and frees its cache."""
        if self._manager:
            self._manager.stop(block=True)
            self._manager.destroy()


def _sampling(work: Work) -> dict[str, Any]:
    return {"top_k": TOP_K, "top_p": TOP_P, "temperature": TEMPERATURE} if work.sampled else {}


@contextmanager
def open_engine(options: Options) -> Iterator[Continuous]:
    engine = Continuous(load(options))
    try:
        yield engine
    finally:
        engine.close()


if __name__ == "__main__":
    serve("transformers continuous batching", ["torch", "transformers"], open_engine)
