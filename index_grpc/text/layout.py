"""How a conversation is laid out as token ids.

    [0] system  [3] user  [4] assistant  [3] user  [4]

Each message's text is encoded alone and the control ids are put between, so no text can forge a turn. The last id opens
the answer. There is no end of sentence between turns, and id 0 is a marker here, not padding.
"""

from collections.abc import Sequence

from index_grpc.contract import Message, Role
from index_grpc.text.tokenizer import Tokenizer

SYSTEM_ID = 0
BOS_ID = 1
EOS_ID = 2
PAD_ID = 0
"""The same id as the system's mark: what is padding can only be told by where it stands."""
USER_ID = 3
ASSISTANT_ID = 4

STOP_IDS = frozenset({SYSTEM_ID, EOS_ID, USER_ID, ASSISTANT_ID})
"""Ids that end an answer: the model's end of sentence, or the mark of a turn that is not its own to write."""

ROLE_IDS = {Role.SYSTEM: SYSTEM_ID, Role.USER: USER_ID, Role.ASSISTANT: ASSISTANT_ID}


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The conversation as the model is to see it, ready for the answer's first token."""
    ids: list[int] = []
    for message in messages:
        ids.append(ROLE_IDS[message.role])
        ids += tokenizer.encode(message.content)
    return [*ids, ASSISTANT_ID]


def fewest_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> int:
    """A lower bound of `len(prompt_ids(…))` that costs far less, to refuse what is much too long."""
    return sum(1 + tokenizer.fewest_tokens(message.content) for message in messages) + 1
