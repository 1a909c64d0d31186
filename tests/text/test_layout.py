"""Conversations as ids."""

from index_grpc.datatypes import Message, Role
from index_grpc.text.layout import ASSISTANT_ID, BOS_ID, EOS_ID, STOP_IDS, SYSTEM_ID, USER_ID, fewest_tokens, prompt_ids
from index_grpc.text.tokenizer import Tokenizer

CONVERSATION = (
    Message(Role.SYSTEM, "你是 Index"),
    Message(Role.USER, " reserved_1 hello"),
    Message(Role.ASSISTANT, "你好</s>"),
    Message(Role.USER, ""),
)


def test_published_layout(any_tokenizer: Tokenizer) -> None:
    encode = any_tokenizer.encode
    assert prompt_ids(any_tokenizer, CONVERSATION) == [
        *(0, *encode("你是 Index")),
        *(3, *encode(" reserved_1 hello")),
        *(4, *encode("你好</s>")),
        *(3, 4),
    ]


def test_markers_stand_only_between_messages(any_tokenizer: Tokenizer) -> None:
    ids = prompt_ids(any_tokenizer, CONVERSATION)
    assert [i for i in ids if i < 5] == [SYSTEM_ID, USER_ID, ASSISTANT_ID, USER_ID, ASSISTANT_ID]


def test_no_system_message_no_system_marker(any_tokenizer: Tokenizer) -> None:
    assert prompt_ids(any_tokenizer, CONVERSATION[1:])[0] == USER_ID


def test_ids_of_the_checkpoint() -> None:
    assert (SYSTEM_ID, BOS_ID, EOS_ID, USER_ID, ASSISTANT_ID) == (0, 1, 2, 3, 4)
    assert {0, 2, 3, 4} == STOP_IDS


def test_fewest_tokens_is_a_lower_bound(any_tokenizer: Tokenizer) -> None:
    assert 5 < fewest_tokens(any_tokenizer, CONVERSATION) <= len(prompt_ids(any_tokenizer, CONVERSATION))
    assert fewest_tokens(any_tokenizer, ()) == len(prompt_ids(any_tokenizer, ())) == 1
