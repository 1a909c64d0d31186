"""A peer: the transformers pipeline of the usual tutorials, without a server around it.

It answers one request at a time, without streaming: others wait, and the first token comes with the last.

    python -m peers.pipeline CHECKPOINT/llama --threads 2
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import pipeline

from peers.place import DEVICE, DTYPE
from peers.protocol import Answer, Options, Work, greedy_or_sampled, serve


def text_generator(checkpoint: str) -> Any:  # noqa: ANN401 - transformers types fit no call
    """The pipeline of the tutorials, except that every answer runs to its full length."""
    generator = pipeline("text-generation", model=checkpoint, device=DEVICE, dtype=DTYPE)
    generator.model.generation_config.eos_token_id = None
    return generator


class Pipeline:
    """Gets one answer after the other."""

    def __init__(self, generator: Any) -> None:  # noqa: ANN401 - transformers types fit no call
        self._generator = generator

    def prepare(self, work: Work) -> None:
        """Needs nothing."""

    def answer(self, work: Work) -> list[Answer]:
        """Answers in the order of the prompts."""
        return [self._answer(text, work) for text in work.texts]

    def _answer(self, text: str, work: Work) -> Answer:
        output = self._generator(
            [{"role": "user", "content": text}],
            max_new_tokens=work.max_tokens,
            do_sample=work.sampled,
            **greedy_or_sampled(work),
        )
        # The output does not say how many tokens it has; only the limit can have ended it.
        return Answer([time.perf_counter()], work.max_tokens, text=output[0]["generated_text"][-1]["content"])


@contextmanager
def open_engine(options: Options) -> Iterator[Pipeline]:
    torch.set_num_threads(options.threads)
    yield Pipeline(text_generator(str(options.checkpoint)))


if __name__ == "__main__":
    serve("transformers pipeline", ["torch", "transformers"], open_engine)
