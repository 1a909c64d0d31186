"""A peer: transformers' `generate` over one batch of all prompts of the round.

A batch is fixed during a call, so no request can join it; a server would let the next caller wait.

    python -m peers.static CHECKPOINT/llama --threads 2
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from peers.place import load
from peers.protocol import Answer, Options, Work, greedy_or_sampled, serve

PAD_ID = 0


class Clock(StoppingCriteria):
    """Records when each step ended, and never stops. It is called after every step; a streamer is not, with a batch."""

    def __init__(self) -> None:
        self.instants: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """input_ids [B, tokens so far] → [B], all false."""
        self.instants.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Static:
    """A model whose batch is fixed during a call."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - transformers types fit no call
        self._model = model

    def prepare(self, work: Work) -> None:
        """Needs nothing."""

    def answer(self, work: Work) -> list[Answer]:
        """Answers all prompts in one batch, so all answers have the same instants."""
        width = max(map(len, work.prompts))
        ids = torch.tensor([[PAD_ID] * (width - len(prompt)) + prompt for prompt in work.prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in work.prompts])
        clock = Clock()
        output = self._model.generate(
            ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            max_new_tokens=work.max_tokens,
            do_sample=work.sampled,
            stopping_criteria=StoppingCriteriaList([clock]),
            **greedy_or_sampled(work),
        )
        return [Answer(clock.instants, len(row) - width, row[width:].tolist()) for row in output]


@contextmanager
def open_engine(options: Options) -> Iterator[Static]:
    model = load(options)
    model.generation_config.eos_token_id = None  # every answer runs to its full length
    model.generation_config.pad_token_id = PAD_ID
    yield Static(model)


if __name__ == "__main__":
    serve("transformers generate", ["torch", "transformers"], open_engine)
