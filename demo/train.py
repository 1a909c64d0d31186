"""Trains the demo checkpoint, a tokenizer and a very small model, on the dialogues in `demo/corpus/`.

The result has the on-disk format of Index-1.9B-Chat and is part of the package, so that the service can answer without
a download. One processor core is enough; a progress line shows the time left.
"""

import argparse
import io
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from checkpoint import new_body, normalized_rows, save_checkpoint
from dealer import OFFICIAL_SYSTEM, Dealer
from layout import NO_TARGET, Example, example
from torch.nn import functional
from transformers import LlamaForCausalLM

DEFAULT_OUTPUT = Path(__file__).parent.parent / "index_grpc" / "demo_checkpoint"
TOKENIZER_CONVERSATIONS = 20_000
SYSTEM_REPEATS = 3_000
REPETITION_PENALTY = 1.1
POOLED_BATCHES = 16
WARM_UP_STEPS = 60


@dataclass(frozen=True)
class Plan:
    """The parameters of a training run, besides the corpus."""

    output: Path
    steps: int
    batch_size: int
    peak_rate: float
    vocabulary_size: int
    num_threads: int
    seed: int


@dataclass(frozen=True)
class Batch:
    """Examples as B rows of T positions, padded at the end."""

    ids: torch.Tensor  # [B, T]; the padding is after every target, so causal attention never reads it
    targets: torch.Tensor  # [B, T]; NO_TARGET where nothing is learned
    is_penalized: torch.Tensor  # [B]; rows that learn under the repetition penalty


def parse_arguments() -> Plan:
    """Reads the plan from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="directory to write the checkpoint to")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps; fewer are quicker and remember worse")
    parser.add_argument("--batch-size", type=int, default=32, help="conversations in a step")
    parser.add_argument("--peak-rate", type=float, default=3e-3, help="learning rate after the warm-up")
    parser.add_argument("--vocabulary-size", type=int, default=1800, help="pieces of the tokenizer, bytes included")
    parser.add_argument("--num-threads", type=int, default=1, help="processor threads; more help only on idle cores")
    parser.add_argument("--seed", type=int, default=1, help="seed of the weights and of the drawn conversations")
    return Plan(**vars(parser.parse_args()))


def train_tokenizer(plan: Plan) -> sentencepiece.SentencePieceProcessor:
    """Trains a SentencePiece BPE on random conversations and writes it to the output directory.

    The system message is repeated so that it becomes a few long pieces. Texts are not changed: there is no
    normalisation, no dummy prefix, and no trimming of spaces. Characters without a piece are encoded as bytes.
    """
    dealer = Dealer(plan.seed)
    conversations = (dealer.conversation() for _ in range(TOKENIZER_CONVERSATIONS))
    messages = [message for conversation in conversations for pair in conversation.pairs for message in pair]
    model = io.BytesIO()  # a file name would be stored in the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(messages + [OFFICIAL_SYSTEM] * SYSTEM_REPEATS),
        model_writer=model,
        model_type="bpe",
        vocab_size=plan.vocabulary_size,
        character_coverage=1.0,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        control_symbols=["reserved_0", "reserved_1"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        num_threads=plan.num_threads,
        minloglevel=2,
    )
    (plan.output / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def batches(plan: Plan, tokenizer: sentencepiece.SentencePieceProcessor) -> Iterator[Batch]:
    """Endless batches. The rows of a batch have similar lengths, so that there is little padding."""
    dealer = Dealer(plan.seed + 1)
    generator = torch.Generator().manual_seed(plan.seed)
    while True:
        pool = [example(tokenizer, dealer.conversation()) for _ in range(plan.batch_size * POOLED_BATCHES)]
        pool.sort(key=lambda row: len(row.ids))
        for index in torch.randperm(POOLED_BATCHES, generator=generator).tolist():
            rows = pool[index * plan.batch_size : (index + 1) * plan.batch_size]
            yield collate(rows, torch.rand(len(rows), generator=generator) < 0.5)


def collate(rows: list[Example], is_penalized: torch.Tensor) -> Batch:
    """A batch of examples; the shorter ones are padded at the end."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    targets = torch.tensor([row.targets + [NO_TARGET] * (width - len(row.targets)) for row in rows])
    return Batch(ids, targets, is_penalized)


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy over the answers' tokens, N of them in the batch.

    Half of the rows are trained with the service's repetition penalty. The penalty makes the model less likely to name
    what the user said before, unless it has learned a sufficient margin here.
    """
    hidden = model.model(batch.ids).last_hidden_state  # [B, T, H]
    rows, positions = torch.nonzero(batch.targets != NO_TARGET, as_tuple=True)  # [N], [N]
    logits = hidden[rows, positions] @ normalized_rows(model.lm_head.weight).T  # [N, V]
    seen = first_positions(batch.ids, logits.shape[1])[rows] <= positions[:, None]  # [N, V]
    penalized = torch.where(logits > 0, logits / REPETITION_PENALTY, logits * REPETITION_PENALTY)
    logits = torch.where(seen & batch.is_penalized[rows, None], penalized, logits)
    return functional.cross_entropy(logits, batch.targets[rows, positions])


def first_positions(ids: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
    """The first position of each id of the vocabulary in each row of [B, T]: [B, V]; T if it does not occur."""
    num_rows, width = ids.shape
    positions = torch.arange(width).expand(num_rows, width)
    never = torch.full((num_rows, vocabulary_size), width)
    return never.scatter_reduce(1, ids, positions, reduce="amin")


def rate_factor(step: int, num_steps: int) -> float:
    """The learning rate as a share of its peak: a linear warm-up, then half a cosine down to zero."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / max(1, num_steps - WARM_UP_STEPS)))


def train_model(plan: Plan, tokenizer: sentencepiece.SentencePieceProcessor) -> LlamaForCausalLM:
    """The trained model, in float32."""
    model = new_body(tokenizer.vocab_size())
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.peak_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, plan.steps))
    progress = Progress(plan.steps)
    for _, batch in zip(range(plan.steps), batches(plan, tokenizer), strict=False):
        loss = batch_loss(model, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.advance(loss.item())
    progress.close()
    return model


class Progress:
    """A progress line that is overwritten: step, smoothed loss, time left."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._step = 0
        self._loss = 0.0
        self._start = time.monotonic()

    def advance(self, loss: float) -> None:
        """Counts a step and prints the line."""
        self._step += 1
        self._loss += (loss - self._loss) / min(self._step, 50)
        seconds_left = (time.monotonic() - self._start) / self._step * (self._num_steps - self._step)
        line = f"step {self._step}/{self._num_steps}  loss {self._loss:.3f}  {format_time(seconds_left)} left"
        print(f"\r{line:<60}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line with the time that was needed."""
        print(f"  took {format_time(time.monotonic() - self._start)}", file=sys.stderr)


def format_time(seconds: float) -> str:
    """Minutes and seconds, such as 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def main() -> None:
    """Trains, and writes everything in the checkpoint directory except its README."""
    plan = parse_arguments()
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.num_threads)
    plan.output.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(plan)
    model = train_model(plan, tokenizer)
    save_checkpoint(model, plan.output, plan.seed)
    size = sum(path.stat().st_size for path in plan.output.iterdir())
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{plan.output}: {num_parameters / 1e6:.2f} M parameters, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
