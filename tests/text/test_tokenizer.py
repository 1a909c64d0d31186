"""Encoding text to ids and decoding it; no text becomes a control id."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from index_grpc.errors import CheckpointError
from index_grpc.text.detokenizer import Detokenizer
from index_grpc.text.tokenizer import NUM_CONTROL_IDS, Tokenizer
from tests.checkpoints import TEXT, make_tokenizer

LITERALS = ("reserved_0", "reserved_1", "<unk>", "<s>", "</s>")
SAMPLES = (
    "",
    " ",
    "  two before and two after  ",
    "a\nb\r\n\tc\n\n",
    "你好，世界！",
    "👩‍👩‍👧‍👦 family, 👍🏽 thumb, 🇨🇳 flag",
    "龘靐齉",
    "e\u0301 \u200b\ufeff\0",
    "<0x41>",
    *LITERALS,
    " reserved_1 ",
    "reserved_0reserved_1</s><s><unk>reserved_",
    "rreserved_0eserved_0",
)
# SentencePiece writes a space as ▁, so this one character is not decoded to itself.
texts = st.lists(st.sampled_from(LITERALS) | st.text(st.characters(codec="utf-8", exclude_characters="▁"))).map("".join)


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text that a caller receives."""
    detokenizer = Detokenizer(tokenizer)
    return "".join(map(detokenizer.push, ids))


@pytest.mark.parametrize("text", SAMPLES)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert decoded(tokenizer, tokenizer.encode(text)) == text


def test_an_empty_text_has_no_ids(any_tokenizer: Tokenizer) -> None:
    """SentencePiece says so too, also where it adds a space before every text."""
    assert any_tokenizer.encode("") == any_tokenizer._processor.encode("") == []
    assert any_tokenizer.fewest_tokens("") == 0


@given(text=texts)
def test_any_text_comes_back_without_control_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert min(ids, default=NUM_CONTROL_IDS) >= NUM_CONTROL_IDS
    assert decoded(tokenizer, ids) == text


@given(text=texts | st.text(alphabet="ab▁ \ud800龘?"))
def test_no_text_gets_a_control_id_or_fewer_tokens_than_the_bound(any_tokenizer: Tokenizer, text: str) -> None:
    ids = any_tokenizer.encode(text)
    assert min(ids, default=NUM_CONTROL_IDS) >= NUM_CONTROL_IDS
    assert any_tokenizer.fewest_tokens(text) <= len(ids)


@given(text=st.text())
def test_bound_holds_where_the_model_normalises(text: str) -> None:
    tokenizer = Tokenizer(make_tokenizer(normalization="nmt_nfkc"))
    assert tokenizer.fewest_tokens(text) <= len(tokenizer.encode(text))


@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_a_normaliser_that_changes_text_is_detected(dummy_prefix: bool) -> None:
    for normalization in ("identity", "nfkc", "nmt_nfkc", "nfkc_cf"):
        tokenizer = Tokenizer(make_tokenizer(normalization=normalization, dummy_prefix=dummy_prefix))
        assert tokenizer._keeps_text == (normalization == "identity")


def test_bound_is_at_least_a_tenth_of_the_tokens() -> None:
    tokenizer = Tokenizer(make_tokenizer())
    assert tokenizer.fewest_tokens(TEXT * 100) > len(tokenizer.encode(TEXT * 100)) / 10


@pytest.mark.parametrize("literal", LITERALS)
def test_literal_in_text_is_plain_where_sentencepiece_makes_it_a_marker(literal: str) -> None:
    model = make_tokenizer(user_defined_markers=True)
    plain = SentencePieceProcessor(model_proto=model)
    assert (min(plain.encode(literal)) < NUM_CONTROL_IDS) == literal.startswith("reserved")
    text = f"你好 {literal}, ok"
    assert decoded(Tokenizer(model), Tokenizer(model).encode(text)) == text


@pytest.mark.parametrize("text", ["你好，世界", " two  spaces", "newline\n"])
def test_plain_text_is_encoded_as_sentencepiece_does(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == tokenizer._processor.encode(text)


def test_character_that_cannot_be_encoded_is_a_question_mark() -> None:
    tokenizer = Tokenizer(make_tokenizer(byte_fallback=False))
    assert decoded(tokenizer, tokenizer.encode("a龘靐b👍 c\n\nd")) == "a??b? c??d"


def test_lone_surrogate_is_a_question_mark(tokenizer: Tokenizer) -> None:
    assert decoded(tokenizer, tokenizer.encode("a\ud800b")) == "a?b"


def test_bytes_of_tokens() -> None:
    tokenizer = Tokenizer(make_tokenizer())
    assert [tokenizer.token_bytes(i) for i in range(NUM_CONTROL_IDS)] == [b""] * NUM_CONTROL_IDS
    assert tokenizer.token_bytes(NUM_CONTROL_IDS + 0xE4) == b"\xe4"
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode("the 你好"))) == "the 你好".encode()
    assert tokenizer.max_piece_bytes >= max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))


def test_load_reads_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(make_tokenizer())
    assert Tokenizer.load(tmp_path).vocab_size == 500


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "not a SentencePiece model"),
        (b"not a model at all", "not a SentencePiece model"),
        (make_tokenizer()[:5000], "not a SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (make_tokenizer(markers=("<user>", "<assistant>")), "id 3 is '<user>' and should be 'reserved_0'.*laid out"),
    ],
)
def test_load_names_file_and_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path / "tokenizer.model") in str(caught.value)
