"""The demo model's dialogues: reads `demo/corpus/` and expands its patterns.

A text file contains blocks, separated by empty lines:

    # a comment
    @ a system message that belongs to this block
    > a prompt                      several in a row: alternatives of one turn
    < an answer                     several in a row: any of them may follow
    > the next turn's prompt ...
    ! memory weight 20              "memory": at most one such block in a conversation; "weight": how often it is drawn

`[a|b|]` stands for one of its alternatives, here a, b or nothing. `{colour.en}` is the field `en` of an entry of the
list `colour` in `values.json`; `{joke_en}` is an entry that is plain text. Within a block the same name always means
the same entry, and `{colour2.en}` means another entry of the same list.
"""

import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS_DIR = Path(__file__).parent / "corpus"
LARGEST_SUMMAND = 5
ENGLISH_NUMBERS = ("zero", "one", "two", "three", "four", "five")
CHINESE_NUMBERS = ("零", "一", "二", "三", "四", "五")
NUM_INVENTED_TOPICS = 200

CHOICE = re.compile(r"\[([^\[\]]*)\]")
FIELD = re.compile(r"\{([a-z_]+)(\d?)(?:\.([a-z_]+))?\}")
NOT_LETTERS = re.compile(r"[\W_]+")

Entry = str | dict[str, str]
Values = dict[str, list[Entry]]
Binding = dict[str, Entry]


@dataclass(frozen=True)
class Turn:
    """What the user may say at one point of a block, and the possible answers."""

    prompts: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A dialogue with its alternatives; it is drawn in proportion to its `weight`."""

    turns: tuple[Turn, ...]
    system: str | None
    is_memory: bool
    weight: float


def load_values(directory: Path = CORPUS_DIR) -> Values:
    """The closed lists, and in addition the table of small sums and the invented topics."""
    values: Values = json.loads((directory / "values.json").read_text(encoding="utf-8"))
    summands = range(1, LARGEST_SUMMAND + 1)
    values["sum"] = [small_sum(a, b) for a in summands for b in summands]
    chance = random.Random(0)
    values["topic_en"] += [invented_topic(chance, "abcdefghiklmnoprstuvwz") for _ in range(NUM_INVENTED_TOPICS)]
    characters = sorted({character for topic in values["topic_zh"] for character in topic})
    values["topic_zh"] += ["".join(chance.sample(characters, chance.randint(2, 4))) for _ in range(NUM_INVENTED_TOPICS)]
    return values


def small_sum(a: int, b: int) -> dict[str, str]:
    """An entry of the table of sums: the summands in digits and in words, the sum in digits."""
    english = {"a_en": ENGLISH_NUMBERS[a], "b_en": ENGLISH_NUMBERS[b]}
    chinese = {"a_zh": CHINESE_NUMBERS[a], "b_zh": CHINESE_NUMBERS[b]}
    return {"a": str(a), "b": str(b), "total": str(a + b), **english, **chinese}


def invented_topic(chance: random.Random, letters: str) -> str:
    """One or two invented words, so that the model learns to treat words that it has never seen as unknown."""
    words = ["".join(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(chance.randint(1, 2))]
    return " ".join(words)


def load_blocks(directory: Path = CORPUS_DIR) -> list[Block]:
    """All blocks of all text files, in the order of the files."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.txt"))]
    paragraphs = itertools.chain.from_iterable(text.split("\n\n") for text in texts)
    parsed = (parse_block(paragraph) for paragraph in paragraphs)
    return [block for block in parsed if block is not None]


def parse_block(paragraph: str) -> Block | None:
    """A block from its lines; None for a paragraph of comments."""
    lines = [(line[0], line[1:].strip()) for line in paragraph.splitlines() if line.strip() and line[0] != "#"]
    if not lines:
        return None
    system = next((text for mark, text in lines if mark == "@"), None)
    options = " ".join(text for mark, text in lines if mark == "!").split()
    turns = tuple(parse_turns((mark, text) for mark, text in lines if mark in "<>"))
    default_weight = sum(len(turn.prompts) + len(turn.answers) for turn in turns) / len(turns)
    weight = float(options[options.index("weight") + 1]) if "weight" in options else default_weight
    return Block(turns, system, "memory" in options, weight)


def parse_turns(lines: Iterable[tuple[str, str]]) -> Iterator[Turn]:
    """Turns from alternating runs of `>` and `<` lines."""
    runs = [(mark, tuple(text for _, text in run)) for mark, run in itertools.groupby(lines, key=lambda line: line[0])]
    if [mark for mark, _ in runs] != [">", "<"] * (len(runs) // 2) or not runs:
        raise ValueError(f"a block must alternate prompts and answers: {runs}")
    for (_, prompts), (_, answers) in zip(runs[::2], runs[1::2], strict=True):
        yield Turn(prompts, answers)


def expand_choices(pattern: str) -> list[str]:
    """All texts that the `[a|b]` groups of a pattern allow."""
    parts = CHOICE.split(pattern)
    options = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(reading) for reading in itertools.product(*options)]


def normalized(text: str) -> str:
    """Text in lower case, without spaces and punctuation, so that only a real rewording counts as new."""
    return NOT_LETTERS.sub("", text.casefold())


def all_prompts(blocks: list[Block], values: Values) -> set[str]:
    """All prompts that the corpus can produce, normalized."""
    patterns = {pattern for block in blocks for turn in block.turns for pattern in turn.prompts}
    readings = {reading for pattern in patterns for reading in expand_choices(pattern)}
    return {normalized(text) for reading in readings for text in fill_every_way(reading, values)}


def fill_every_way(reading: str, values: Values) -> Iterator[str]:
    """The text with each combination of entries in its fields."""
    variables = list(dict.fromkeys((name, digit) for name, digit, _ in FIELD.findall(reading)))
    for entries in itertools.product(*(values[name] for name, _ in variables)):
        yield fill(reading, {name + digit: entry for (name, digit), entry in zip(variables, entries, strict=True)})


def fill(reading: str, binding: Binding) -> str:
    """The text with its fields filled in; a field at the beginning is capitalised."""

    def field(match: re.Match[str]) -> str:
        entry = binding[match[1] + match[2]]
        return entry if isinstance(entry, str) else entry[match[3]]

    text = FIELD.sub(field, reading)
    return text[0].upper() + text[1:] if reading.startswith("{") else text
