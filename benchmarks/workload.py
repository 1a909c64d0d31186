"""The prompts for every peer: random words, as text and as the ids that our server makes of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from peers.protocol import Work

from index_grpc.bench.workload import WORDS
from index_grpc.datatypes import Message, Role
from index_grpc.text.layout import prompt_ids
from index_grpc.text.tokenizer import Tokenizer

MOST_TRIES = 1000


@dataclass(frozen=True)
class Workload:
    """Makes rounds. Each prompt is drawn anew, so that no peer can reuse what it computed for another prompt."""

    tokenizer: Tokenizer
    prompt_tokens: int
    """Tokens of each prompt, including control tokens."""
    max_tokens: int
    sampled: bool
    seed: int

    def round(self, series: str, num_prompts: int) -> Work:
        """The round of that name, which is the same for every peer. Raises ValueError if no words fit."""
        texts = [self._text(f"{self.seed}/{series}/{number}") for number in range(num_prompts)]
        return Work([self._ids(text) for text in texts], texts, self.max_tokens, self.sampled)

    def text(self, ids: Sequence[int]) -> str:
        """Decodes ids, to compare them with peers that answer in text."""
        return b"".join(map(self.tokenizer.token_bytes, ids)).decode(errors="replace")

    def _ids(self, text: str) -> list[int]:
        return prompt_ids(self.tokenizer, [Message(Role.USER, text)])

    def _text(self, key: str) -> str:
        """Adds words as long as they fit, until the prompt has exactly its length."""
        draw, text = random.Random(key), ""
        for _ in range(MOST_TRIES):
            longer = f"{text} {draw.choice(WORDS)}".strip()
            num_tokens = len(self._ids(longer))
            if num_tokens <= self.prompt_tokens:
                text = longer
            if num_tokens == self.prompt_tokens:
                return text
        raise ValueError(f"no words make a prompt of exactly {self.prompt_tokens} tokens; take another length")
