"""How a conversation is laid out as token ids.

    [0] system  [3] user  [4] assistant  [3] user  [4]

Each message's text is encoded alone and the control ids are put between, so no text can forge a turn. The last id
begins the answer. There is no end of sentence between turns, and id 0 is a marker here, not padding.
"""

from collections.abc import Sequence

from index_grpc.datatypes import Message, Role
from index_grpc.text.tokenizer import Tokenizer

SYSTEM_ID = 0
BOS_ID = 1
EOS_ID = 2
PAD_ID = 0
"""The same id as the system's mark: only its position tells whether it is padding."""
USER_ID = 3
ASSISTANT_ID = 4

STOP_IDS = frozenset({SYSTEM_ID, EOS_ID, USER_ID, ASSISTANT_ID})
"""Ids that end an answer: the model's end of sentence, or a mark that would begin another turn."""

ROLE_IDS = {Role.SYSTEM: SYSTEM_ID, Role.USER: USER_ID, Role.ASSISTANT: ASSISTANT_ID}


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Returns the conversation as the model sees it, up to where the answer's first token follows."""
    ids: list[int] = []
    for message in messages:
        ids.append(ROLE_IDS[message.role])
        ids += tokenizer.encode(message.content)
    return [*ids, ASSISTANT_ID]


def fewest_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> int:
    """Returns a lower bound of `len(prompt_ids(…))` that costs far less, to refuse prompts that are much too long."""
    return sum(1 + tokenizer.fewest_tokens(message.content) for message in messages) + 1
