"""A peer: llama.cpp, with one batch of all sequences in each step, through the low-level functions of llama-cpp-python.

Loads a GGUF file. By default llama.cpp keeps keys and values in float16, also with float32 weights. Its sampler chain
applies top-k and top-p before the temperature, while the others apply the temperature first.

The file is not named llama_cpp.py, because that would hide the library of that name.

    python -m peers.llamacpp CHECKPOINT/f32.gguf --threads 2
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llama_cpp

from peers.protocol import REPETITION_PENALTY, TEMPERATURE, TOP_K, TOP_P, Answer, Options, Work, serve

BATCH_TOKENS = 512
CONTEXT_UNIT = 256

Token = tuple[int, int, int, bool]
"""(id, position, sequence, whether its logits are needed)."""


class LlamaCpp:
    """A model with a context, which is made anew when a round needs another size."""

    def __init__(self, model: Any, threads: int) -> None:  # noqa: ANN401 - a pointer
        self._model, self._threads = model, threads
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._context: Any = None
        self._shape: tuple[int, int] | None = None

    def prepare(self, work: Work) -> None:
        """Makes the context large enough and empties it. Raises RuntimeError if there is no memory for it."""
        longest = max(map(len, work.prompts)) + work.max_tokens
        shape = (len(work.prompts), -(-longest // CONTEXT_UNIT) * CONTEXT_UNIT)
        if self._shape != shape:
            self.close()
            values = llama_cpp.llama_context_default_params()
            values.n_ctx, values.n_seq_max = shape[0] * shape[1], shape[0]
            values.n_batch = values.n_ubatch = BATCH_TOKENS
            values.n_threads = values.n_threads_batch = self._threads
            self._context = llama_cpp.llama_init_from_model(self._model, values)
            if not self._context:
                raise RuntimeError(f"llama.cpp makes no context for {shape[0]} sequences of {shape[1]} tokens")
            self._shape = shape
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def answer(self, work: Work) -> list[Answer]:
        """Computes the prompts first, in batches, and then one token of each sequence in each step."""
        samplers = [self._sampler(work, sequence) for sequence in range(len(work.prompts))]
        ids: list[list[int]] = [[] for _ in work.prompts]
        instants: list[list[float]] = [[] for _ in work.prompts]
        steps: Iterator[list[Token]] = _batches(_prompt_tokens(work.prompts))
        while True:
            for tokens in steps:
                self._decode(tokens)
                for place, (_, _, sequence, wanted) in enumerate(tokens):
                    if wanted:
                        ids[sequence].append(llama_cpp.llama_sampler_sample(samplers[sequence], self._context, place))
                        instants[sequence].append(time.perf_counter())
            if len(ids[0]) == work.max_tokens:
                break
            step = [
                (answer[-1], len(prompt) + len(answer) - 1, sequence, True)
                for sequence, (prompt, answer) in enumerate(zip(work.prompts, ids, strict=True))
            ]
            steps = _batches(step)
        for sampler in samplers:
            llama_cpp.llama_sampler_free(sampler)
        return [Answer(times, len(answer), answer) for times, answer in zip(instants, ids, strict=True)]

    def close(self) -> None:
        """Frees the context."""
        if self._context:
            llama_cpp.llama_free(self._context)

    def _decode(self, tokens: Sequence[Token]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token_id, position, sequence, wanted) in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token_id, position, wanted
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode of {len(tokens)} tokens failed with status {status}")

    def _sampler(self, work: Work, sequence: int) -> Any:  # noqa: ANN401 - a pointer
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if not work.sampled:
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
            return chain
        prompt = work.prompts[sequence]
        window = len(prompt) + work.max_tokens  # the whole sequence, as in the other peers
        for part in (
            llama_cpp.llama_sampler_init_penalties(self._vocab_size, window, REPETITION_PENALTY, 0.0, 0.0),
            llama_cpp.llama_sampler_init_top_k(TOP_K),
            llama_cpp.llama_sampler_init_top_p(TOP_P, 1),
            llama_cpp.llama_sampler_init_temp(TEMPERATURE),
            llama_cpp.llama_sampler_init_dist(sequence),
        ):
            llama_cpp.llama_sampler_chain_add(chain, part)
        for token_id in prompt:  # the penalty applies to the prompt's tokens too
            llama_cpp.llama_sampler_accept(chain, token_id)
        return chain


def _prompt_tokens(prompts: Sequence[Sequence[int]]) -> list[Token]:
    return [
        (token_id, position, sequence, position == len(prompt) - 1)
        for sequence, prompt in enumerate(prompts)
        for position, token_id in enumerate(prompt)
    ]


def _batches(tokens: list[Token]) -> Iterator[list[Token]]:
    return (tokens[start : start + BATCH_TOKENS] for start in range(0, len(tokens), BATCH_TOKENS))


@contextmanager
def open_engine(options: Options) -> Iterator[LlamaCpp]:
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        str(options.checkpoint).encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise RuntimeError(f"{options.checkpoint}: llama.cpp cannot load it; it takes what convert.py writes as .gguf")
    engine = LlamaCpp(model, options.threads)
    try:
        yield engine
    finally:
        engine.close()


if __name__ == "__main__":
    serve("llama.cpp", ["llama-cpp-python"], open_engine)
