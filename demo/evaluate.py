"""Measures the demo checkpoint on `demo/evaluation.json`, with the service's default sampling.

Each prompt is asked once for every sample. An answer is on topic if it ends by itself and matches one of the prompt's
patterns. An exchange about memory is recalled if the second answer names the value of the first message.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoint import load_checkpoint
from corpus import all_prompts
from dealer import Conversation, Dealer, is_known
from layout import STOP_IDS, prompt_ids
from sentencepiece import SentencePieceProcessor
from transformers import DynamicCache, LlamaForCausalLM

HERE = Path(__file__).parent
MAX_NEW_TOKENS = 160
TEMPERATURE = 0.95
TOP_P = 0.7
TOP_K = 5
REPETITION_PENALTY = 1.1


@dataclass(frozen=True)
class Answer:
    """A sampled answer, and whether it ended with a stop id and not at the limit."""

    text: str
    has_ended: bool


@dataclass(frozen=True)
class Subject:
    """The checkpoint to be evaluated."""

    model: LlamaForCausalLM
    tokenizer: SentencePieceProcessor
    generator: torch.Generator

    def answers(self, history: Conversation, prompt: str, num_samples: int) -> list[Answer]:
        """Independent answers to one prompt, computed as a batch."""
        ids = prompt_ids(self.tokenizer, history, prompt)
        rows = generate(self.model, torch.tensor([ids] * num_samples), self.generator)
        return [self._answer(row) for row in rows]

    def _answer(self, ids: list[int]) -> Answer:
        end = next((index for index, token in enumerate(ids) if token in STOP_IDS), None)
        return Answer(self.tokenizer.decode(ids[:end]), end is not None)


@torch.inference_mode()
def generate(model: LlamaForCausalLM, ids: torch.Tensor, generator: torch.Generator) -> list[list[int]]:
    """New ids for each row of the prompts [B, T], until every row has a stop id or the limit is reached."""
    cache = DynamicCache()
    rows: list[list[int]] = [[] for _ in range(ids.shape[0])]
    seen = torch.zeros(ids.shape[0], model.config.vocab_size, dtype=torch.bool).scatter_(1, ids, True)  # [B, V]
    for _ in range(MAX_NEW_TOKENS):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]  # [B, V]
        ids = sample(logits, seen, generator)  # [B, 1]
        seen.scatter_(1, ids, True)
        for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
            row.append(token)
        if all(STOP_IDS.intersection(row) for row in rows):
            break
    return rows


def sample(logits: torch.Tensor, seen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One id for each row, [B, 1], from logits [B, V]: penalty, temperature, top-k, top-p, in transformers' order."""
    penalized = torch.where(logits > 0, logits / REPETITION_PENALTY, logits * REPETITION_PENALTY)
    logits = torch.where(seen, penalized, logits) / TEMPERATURE
    values, indices = logits.topk(TOP_K, dim=-1)  # [B, K], largest first
    probabilities = values.softmax(dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = probabilities.masked_fill(mass_before >= TOP_P, 0.0)
    return indices.gather(1, torch.multinomial(probabilities, 1, generator=generator))


def is_on_topic(answer: Answer, patterns: list[str]) -> bool:
    """Whether the answer ended and matches one of the patterns."""
    return answer.has_ended and any(re.search(pattern, answer.text) for pattern in patterns)


def evaluate_prompts(subject: Subject, prompts: list[dict[str, Any]], num_samples: int) -> None:
    """Prints a line for each prompt and the totals."""
    ended, distinct = 0, 0
    scores = torch.zeros(num_samples, dtype=torch.int)
    for entry in prompts:
        answers = subject.answers(Conversation(None, ()), entry["prompt"], num_samples)
        hits = torch.tensor([is_on_topic(answer, entry["expect"]) for answer in answers])
        scores += hits
        ended += sum(answer.has_ended for answer in answers)
        distinct += len({answer.text for answer in answers}) > 1
        mark = "written " if entry["in_corpus"] else "reworded"
        print(f"{mark}  {int(hits.sum()):3}/{num_samples}  {entry['prompt']}  ->  {answers[0].text}")
        for answer in {answer.text for answer, hit in zip(answers, hits, strict=True) if not hit}:
            print(f"          off topic: {answer}")
    total = len(prompts) * num_samples
    print(f"ended {ended}/{total}, on topic {int(scores.sum())}/{total}")
    print(f"on topic for one seed: lowest {int(scores.min())}, mean {scores.float().mean():.2f} of {len(prompts)}")
    print(f"prompts with more than one answer: {distinct} of {len(prompts)}")


def evaluate_memory(subject: Subject, exchanges: list[dict[str, Any]], num_samples: int) -> None:
    """Prints the recall of each exchange and the total; the first answer is sampled too."""
    recalled, total = 0, 0
    for entry in exchanges:
        hits = [
            has_recalled(subject, entry, value, pattern)
            for value, pattern in entry["values"].items()
            for _ in range(num_samples)
        ]
        print(f"recall    {sum(hits):3}/{len(hits)}  {entry['first']}")
        recalled, total = recalled + sum(hits), total + len(hits)
    print(f"recall {recalled}/{total}")


def has_recalled(subject: Subject, entry: dict[str, Any], value: str, pattern: str) -> bool:
    """Makes one exchange: tells the value, then asks for it."""
    first = entry["first"].replace("{value}", value)
    reply = subject.answers(Conversation(None, ()), first, 1)[0]
    answer = subject.answers(Conversation(None, ((first, reply.text),)), entry["then"], 1)[0]
    if not is_on_topic(answer, [pattern]):
        print(f"          {first} {reply.text} {entry['then']} {answer.text}")
        return False
    return True


def check_flags(prompts: list[dict[str, Any]]) -> None:
    """Ends the program unless every in_corpus flag is right."""
    dealer = Dealer(0)
    known = all_prompts(dealer.blocks, dealer.values)
    wrong = [entry["prompt"] for entry in prompts if is_known(entry["prompt"], known) != entry["in_corpus"]]
    if wrong:
        sys.exit(f"evaluation.json: in_corpus is wrong for {wrong}")


def ask(subject: Subject, prompts: list[str], num_samples: int) -> None:
    """Prints answers to the given prompts."""
    for prompt in prompts:
        for answer in subject.answers(Conversation(None, ()), prompt, num_samples):
            print(f"{prompt}  ->  {answer.text}{'' if answer.has_ended else ' (cut)'}")


def main() -> None:
    """Checks the data file, then measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", default=HERE.parent / "index_grpc" / "demo_checkpoint", help="its directory"
    )
    parser.add_argument("--samples", type=int, default=10, help="answers to each prompt")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    parser.add_argument("--ask", nargs="+", default=[], metavar="PROMPT", help="only answer these prompts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = SentencePieceProcessor(model_file=str(arguments.checkpoint / "tokenizer.model"))
    generator = torch.Generator().manual_seed(arguments.seed)
    subject = Subject(load_checkpoint(arguments.checkpoint), tokenizer, generator)
    if arguments.ask:
        ask(subject, arguments.ask, arguments.samples)
        return
    data = json.loads((HERE / "evaluation.json").read_text(encoding="utf-8"))
    check_flags(data["prompts"])
    evaluate_prompts(subject, data["prompts"], arguments.samples)
    evaluate_memory(subject, data["memory"], arguments.samples)


if __name__ == "__main__":
    main()
