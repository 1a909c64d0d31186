"""A runner that generates the tokens that a test gives it, for tests of everything above the model."""

from collections.abc import Sequence as Ids
from pathlib import Path

from index_grpc.datatypes import Message, Role, ServedModel, Token
from index_grpc.engine.in_flight import Computed
from index_grpc.engine.limits import Limits
from index_grpc.engine.sequence import Batch, Sequence
from index_grpc.engine.worker import ThreadWorker
from index_grpc.server.loaded import Loaded
from index_grpc.text.layout import EOS_ID, prompt_ids
from index_grpc.text.tokenizer import Tokenizer

CONTEXT_LENGTH = 512


class ScriptedRunner:
    """Answers each prompt given to `says` with its ids and the end of sentence, and others with the latter only."""

    rows_independent, run_ahead = True, 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.answers: dict[tuple[int, ...], Ids[int]] = {}

    def says(self, prompt: str, ids: Ids[int]) -> None:
        """From now on, `prompt` without a history is answered with `ids`."""
        self.answers[tuple(prompt_ids(self.tokenizer, [Message(Role.USER, prompt)]))] = ids

    def launch(self, batch: Batch) -> Computed:
        return Computed([self._next(span.sequence) for span in batch.spans if span.samples])

    def _next(self, sequence: Sequence) -> Token:
        answer = self.answers.get(tuple(sequence.request.prompt_ids), ())
        token_id = answer[sequence.num_generated] if sequence.num_generated < len(answer) else EOS_ID
        return Token(token_id, logprob=-0.5 if sequence.request.logprobs else None)


def scripted(checkpoint: Path) -> tuple[ScriptedRunner, Loaded]:
    """A scripted runner with the tokenizer of a checkpoint, and the result of loading them."""
    tokenizer = Tokenizer.load(checkpoint)
    runner = ScriptedRunner(tokenizer)
    limits = Limits(
        CONTEXT_LENGTH,
        max_sequences=4,
        max_waiting=64,
        num_blocks=4 * CONTEXT_LENGTH // 64,
        block_tokens=64,
        chunk_tokens=64,
        alignment_tokens=64,
    )
    model = ServedModel("scripted", CONTEXT_LENGTH, tokenizer.vocab_size, 1, "cpu", "float32", "0.1.0-cpu-fake")
    return runner, Loaded(model, tokenizer, limits, ThreadWorker(runner, limits))
