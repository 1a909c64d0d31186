"""The prompt layout of Index-1.9B-Chat in ids: `[0] system [3] user [4] assistant [3] user [4] ...`."""

from dataclasses import dataclass

from dealer import Conversation
from sentencepiece import SentencePieceProcessor

SYSTEM_ID = 0
END_ID = 2
USER_ID = 3
ASSISTANT_ID = 4
STOP_IDS = frozenset({SYSTEM_ID, END_ID, USER_ID, ASSISTANT_ID})
NO_TARGET = -100


@dataclass(frozen=True)
class Example:
    """The ids of a conversation and, for each position, the id to predict there (NO_TARGET outside the answers)."""

    ids: list[int]
    targets: list[int]


def prompt_ids(tokenizer: SentencePieceProcessor, conversation: Conversation, prompt: str) -> list[int]:
    """The ids of the history and a new prompt, up to the marker that begins the answer."""
    return [*example(tokenizer, conversation).ids, USER_ID, *tokenizer.encode(prompt), ASSISTANT_ID]


def example(tokenizer: SentencePieceProcessor, conversation: Conversation) -> Example:
    """The ids and targets of a whole conversation.

    A history contains no END_ID: the target of an answer's last token is END_ID, although the next id is USER_ID.
    """
    ids: list[int] = [] if conversation.system is None else [SYSTEM_ID, *tokenizer.encode(conversation.system)]
    targets = [NO_TARGET] * len(ids)
    for user, assistant in conversation.pairs:
        question = [USER_ID, *tokenizer.encode(user)]
        answer = tokenizer.encode(assistant)
        ids += [*question, ASSISTANT_ID, *answer]
        targets += [NO_TARGET] * len(question) + [*answer, END_ID]
    return Example(ids, targets)
