"""Decoding ids to whole characters, with the same result as SentencePiece."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_grpc.text.detokenizer import Detokenizer
from index_grpc.text.tokenizer import NUM_CONTROL_IDS, Tokenizer
from tests.checkpoints import make_tokenizer


def byte_ids(data: bytes) -> list[int]:
    """The ids of byte pieces, which follow the control ids."""
    return [NUM_CONTROL_IDS + byte for byte in data]


def pushed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return list(map(detokenizer.push, ids))


@pytest.fixture
def plain() -> Tokenizer:
    return Tokenizer(make_tokenizer())


def test_character_comes_with_its_last_byte(plain: Tokenizer) -> None:
    assert pushed(plain, byte_ids("好👍".encode())) == ["", "", "好", "", "", "", "👍"]


def test_bytes_that_become_no_character_are_dropped(plain: Tokenizer) -> None:
    broken = b"a\xff\xe5\xa5b\xc0\xaf\xed\xa0\x80c\xf0\x9f"
    assert "".join(pushed(plain, byte_ids(broken))) == "abc"


def test_control_ids_and_ids_past_the_vocabulary_are_silent(plain: Tokenizer) -> None:
    space = plain.encode(" ")
    assert "".join(pushed(plain, [0, 1, *space, 3, 4, plain.vocab_size + 7, *space, 2])) == "  "


def test_control_id_within_a_character_changes_nothing(plain: Tokenizer) -> None:
    first, *rest = byte_ids("好".encode())
    assert "".join(pushed(plain, [first, 1, *rest])) == "好"


@given(data=st.data())
def test_same_as_sentencepiece(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Only for ids that form valid characters; SentencePiece shows others as U+FFFD."""
    ids = data.draw(st.lists(st.integers(1, any_tokenizer.vocab_size - 1)))
    expected = any_tokenizer._processor.decode(ids)
    # SentencePiece shows a user-defined marker; here it is a marker and not shown.
    if "\ufffd" not in expected and not {3, 4} & set(ids):
        assert "".join(pushed(any_tokenizer, ids)) == expected


@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc"])
def test_leading_spaces_follow_the_flags_of_the_model(normalization: str) -> None:
    tokenizer = Tokenizer(make_tokenizer(normalization=normalization, dummy_prefix=True))
    space = tokenizer._processor.piece_to_id("▁")
    word = tokenizer._processor.encode("the")
    for ids in ([space], [space, space], [space, space, *word, space], [*word, *word], [1, space, *word]):
        assert "".join(pushed(tokenizer, ids)) == tokenizer._processor.decode(ids)
    assert tokenizer.spaces_dropped_at_start == (1 if normalization == "identity" else None)
