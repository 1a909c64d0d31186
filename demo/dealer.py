"""Makes random conversations: chains of dialogues of the corpus, with small variations, with or without a system."""

import itertools
import random
import re
from dataclasses import dataclass
from pathlib import Path

from corpus import CHOICE, CORPUS_DIR, FIELD, Binding, Block, fill, load_blocks, load_values, normalized

OFFICIAL_SYSTEM = (
    "你是由哔哩哔哩自主研发的大语言模型，名为“Index”。"
    "你能够根据用户传入的信息，帮助用户完成指定的任务，并生成恰当的、符合要求的回复。"
)
NEUTRAL_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer briefly.",
    "你是一个乐于助人的助手。",
    "你是一个友好的助手，请简短回答。",
)
CHINESE_OPENINGS = ("请问，", "你好，", "那么，", "嗨，")
ENGLISH_OPENINGS = ("Please, ", "Hello! ", "Hi, ", "So, ", "Well, ")

WORD = re.compile(r"[\u2e80-\uffef]|[^\s\u2e80-\uffef]+\s*|\s+")


@dataclass(frozen=True)
class Conversation:
    """A concrete dialogue: (user, assistant) pairs, oldest first."""

    system: str | None
    pairs: tuple[tuple[str, str], ...]


def is_known(prompt: str, known: set[str]) -> bool:
    """Whether the corpus can produce the prompt, with or without a polite opening."""
    text = normalized(prompt)
    openings = ["", *map(normalized, CHINESE_OPENINGS + ENGLISH_OPENINGS)]
    return any(text.startswith(opening) and text.removeprefix(opening) in known for opening in openings)


def is_chinese(text: str) -> bool:
    """Whether the text contains a Chinese character."""
    return any(character > "\u2e80" for character in text)


def split_words(text: str) -> list[str]:
    """Words, each with the space after it, and single Chinese characters; joined, they give the text again."""
    return WORD.findall(text)


def stray_words(blocks: list[Block], chinese: bool) -> list[str]:
    """The words of all prompts in one language, to be inserted into other prompts."""
    readings = [CHOICE.sub(lambda match: match[1].split("|")[0], p) for b in blocks for t in b.turns for p in t.prompts]
    plain = [reading for reading in readings if "{" not in reading and is_chinese(reading) == chinese]
    words = {word.strip(" .,!?。，！？") for reading in plain for word in split_words(reading)}
    return [word if chinese else word + " " for word in sorted(words) if word]


class Dealer:
    """Draws conversations; the same seed gives the same ones."""

    def __init__(self, seed: int, directory: Path = CORPUS_DIR) -> None:
        self.values = load_values(directory)
        self.blocks = load_blocks(directory)
        self._random = random.Random(seed)
        self._strays = {True: stray_words(self.blocks, True), False: stray_words(self.blocks, False)}
        self._fillers = [block for block in self.blocks if block.system is None and not block.is_memory]

    def conversation(self) -> Conversation:
        """A block or a chain of blocks, so that later answers are also learned after an unrelated history."""
        block = self._draw(self.blocks)
        pairs = self._pairs(block)
        if block.system is not None:
            return Conversation(block.system, tuple(pairs))
        if block.is_memory and self._happens(0.4):
            pairs[-1:-1] = self._pairs(self._draw(self._fillers))
        before, after = self._random.choices([(0, 0), (1, 0), (0, 1), (2, 1), (4, 2)], [60, 17, 11, 8, 4])[0]
        for _ in range(before):
            pairs[:0] = self._pairs(self._draw(self._fillers))
        for _ in range(after):
            pairs += self._pairs(self._draw(self._fillers))
        return Conversation(self._neutral_system(), tuple(pairs))

    def _draw(self, blocks: list[Block]) -> Block:
        return self._random.choices(blocks, [block.weight for block in blocks])[0]

    def _happens(self, probability: float) -> bool:
        return self._random.random() < probability

    def _neutral_system(self) -> str | None:
        system = self._random.choice(NEUTRAL_SYSTEMS)
        return self._random.choices([None, OFFICIAL_SYSTEM, system], [70, 15, 15])[0]

    def _pairs(self, block: Block) -> list[tuple[str, str]]:
        binding = self._bind(block)
        prompts = [self._read(turn.prompts, binding) for turn in block.turns]
        if not binding:
            prompts = [self._reword(prompt) for prompt in prompts]
        prompts = [self._retype(prompt) for prompt in prompts]
        answers = [self._read(turn.answers, binding) for turn in block.turns]
        return list(zip(prompts, answers, strict=True))

    def _bind(self, block: Block) -> Binding:
        """Draws an entry for each variable; variables of the same list get different entries."""
        texts = itertools.chain.from_iterable(turn.prompts + turn.answers for turn in block.turns)
        variables = dict.fromkeys((name, digit) for text in texts for name, digit, _ in FIELD.findall(text))
        names = dict.fromkeys(name for name, _ in variables)
        picks = {name: self._random.sample(self.values[name], k=2) for name in names}
        return {name + digit: picks[name][1 if digit else 0] for name, digit in variables}

    def _read(self, patterns: tuple[str, ...], binding: Binding) -> str:
        pattern = self._random.choice(patterns)
        reading = CHOICE.sub(lambda match: self._random.choice(match[1].split("|")), pattern)
        return fill(reading, binding)

    def _reword(self, prompt: str) -> str:
        """Sometimes removes or inserts a word, so that a single word does not decide the answer."""
        words = split_words(prompt)
        if len(words) >= 4 and self._happens(0.12):
            del words[self._random.randrange(len(words))]
        if len(words) >= 3 and self._happens(0.15):
            strays = self._strays[is_chinese(prompt)]
            words.insert(self._random.randrange(len(words)), self._random.choice(strays))
        return "".join(words).strip()

    def _retype(self, prompt: str) -> str:
        """Sometimes uses lower case, omits the final punctuation, or adds polite words, as people do."""
        if self._happens(0.1):
            prompt = self._random.choice(CHINESE_OPENINGS if is_chinese(prompt) else ENGLISH_OPENINGS) + prompt
        if self._happens(0.15):
            prompt = prompt.lower()
        if self._happens(0.2):
            prompt = prompt.rstrip(".!?。！？")
        return prompt
