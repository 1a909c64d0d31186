"""The checkpoint's own SentencePiece model, with one rule on top: no text ever becomes a control id."""

import re
from collections.abc import Iterator
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from index_grpc.errors import CheckpointError

NUM_CONTROL_IDS = 5
"""Ids below this one structure a conversation: `<unk>`, `<s>`, `</s>`, `reserved_0`, `reserved_1`."""

MARKERS = {3: "reserved_0", 4: "reserved_1"}
"""The pieces that open a user's and an assistant's turn."""

SPACE = "▁"
"""How SentencePiece writes a space."""

LONGEST_CHARACTER_BYTES = 4

# Protobuf merges this into a model before it: field 3 (normalizer_spec) with its field 3 (add_dummy_prefix) 0.
WITHOUT_DUMMY_PREFIX = b"\x1a\x02\x18\x00"

GIT_LFS_POINTER = b"version https://git-lfs"


class Tokenizer:
    """Turns text into ids and ids into bytes. Follows the model's own flags for normalising and for leading spaces."""

    def __init__(self, model: bytes) -> None:
        """`model` is the content of a `tokenizer.model`. Raises RuntimeError or ValueError where it is not one."""
        if not model:
            raise RuntimeError("the file is empty")
        self._processor = SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.get_piece_size()
        _check_markers(self._processor)
        self._continuation = SentencePieceProcessor(model_proto=model + WITHOUT_DUMMY_PREFIX)
        self._literals = _control_literals(self._processor)
        self._keeps_text = _keeps_text(self._processor)
        pieces = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        self.max_piece_bytes: int = max(len(piece.encode()) for piece in pieces)
        self._bytes = [self._piece_bytes(i, piece) for i, piece in enumerate(pieces)]
        self.spaces_dropped_at_start = _spaces_dropped_at_start(self._processor, pieces)
        self._question_mark: list[int] = self._continuation.encode("?")
        if min(self._question_mark) < NUM_CONTROL_IDS:
            raise ValueError("has no piece for a question mark, which stands in for characters that it lacks")

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Reads `tokenizer.model`. Raises CheckpointError where it is missing, broken or of another layout."""
        path = directory / "tokenizer.model"
        try:
            model = path.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{path}: cannot be read ({reason}); it must lie beside config.json") from error
        if model.startswith(GIT_LFS_POINTER):
            raise CheckpointError(f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` there")
        try:
            return cls(model)
        except RuntimeError as error:
            remedy = "download it again"
            raise CheckpointError(f"{path}: is not a SentencePiece model ({len(model)} bytes); {remedy}") from error
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one message's text, none of them below NUM_CONTROL_IDS.

        A literal such as `reserved_1` is cut so that it encodes as ordinary pieces; a character that the model cannot
        encode becomes a question mark.
        """
        if not text:
            return []
        text = _without_surrogates(text)
        if self._literals is None:
            return self._encode_part(self._processor, text)
        ids: list[int] = []
        for start, part in _cut(self._literals, text):
            ids += self._encode_part(self._continuation if start else self._processor, part)
        return ids

    def fewest_tokens(self, text: str) -> int:
        """Returns a lower bound of `len(encode(text))`, at a small part of its cost."""
        if text and not self._keeps_text:
            text = self._processor.normalize(_without_surrogates(text))
        return -(-len(text.encode("utf-8", "replace")) // max(self.max_piece_bytes, LONGEST_CHARACTER_BYTES))

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes of a token, in UTF-8; empty for control ids and for ids past the vocabulary."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def is_byte(self, token_id: int) -> bool:
        """Whether a token stands for one raw byte."""
        return 0 <= token_id < self.vocab_size and self._processor.is_byte(token_id)

    def _encode_part(self, processor: SentencePieceProcessor, text: str) -> list[int]:
        ids: list[int] = processor.encode(text)
        if min(ids, default=NUM_CONTROL_IDS) >= NUM_CONTROL_IDS:
            return ids
        replaced: list[int] = []
        for token_id, piece in zip(ids, processor.encode(text, out_type=str), strict=True):
            # An unknown piece is a whole run of characters that the model lacks.
            replaced += [token_id] if token_id >= NUM_CONTROL_IDS else self._question_mark * len(piece)
        return replaced

    def _piece_bytes(self, token_id: int, piece: str) -> bytes:
        if token_id < NUM_CONTROL_IDS or self._processor.is_control(token_id):
            return b""
        if self._processor.is_byte(token_id):
            return bytes([int(piece[1:-1], 16)])  # written <0x41>
        return piece.replace(SPACE, " ").encode()


def _check_markers(processor: SentencePieceProcessor) -> None:
    for token_id, expected in MARKERS.items():
        found = processor.id_to_piece(token_id) if token_id < processor.get_piece_size() else "nothing"
        if found != expected:
            raise ValueError(
                f"id {token_id} is {found!r} and should be {expected!r}: prompts are laid out with ids 3 and 4 as "
                "the marks of a user's and an assistant's turn; serve Index-1.9B-Chat or a model with its tokenizer"
            )


def _control_literals(processor: SentencePieceProcessor) -> re.Pattern[str] | None:
    """Returns a pattern of texts that the model itself may turn into ids below NUM_CONTROL_IDS, overlaps included.

    A control or unknown piece never comes from text; a user-defined piece does.
    """
    matchable = [i for i in range(NUM_CONTROL_IDS) if not (processor.is_control(i) or processor.is_unknown(i))]
    literals = "|".join(re.escape(processor.id_to_piece(i)) for i in matchable)
    return re.compile(f"(?={literals})") if literals else None


def _cut(literals: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    """Yields parts of the text with where they start, cut after the first character of every literal."""
    start = 0
    for match in literals.finditer(text):
        yield start, text[start : match.start() + 1]
        start = match.start() + 1
    yield start, text[start:]


def _spaces_dropped_at_start(processor: SentencePieceProcessor, pieces: list[str]) -> int | None:
    """Returns how many of a text's leading space pieces the model's own decoding drops: 0, 1, or None for all."""
    opening = next((i for i, p in enumerate(pieces) if i >= NUM_CONTROL_IDS and p.startswith(SPACE)), None)
    if opening is None or processor.decode([opening]) == pieces[opening].replace(SPACE, " "):
        return 0
    lone = processor.piece_to_id(SPACE)
    return 1 if lone < NUM_CONTROL_IDS or processor.decode([lone, lone]) else None


def _keeps_text(processor: SentencePieceProcessor) -> bool:
    """Whether normalising changes only spaces; tried on the characters of Unicode's first plane and runs of spaces."""
    text = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x10000)])) + "  a  "
    normalized: str = processor.normalize(text)
    return normalized.removeprefix(SPACE) == text.replace(" ", SPACE)


def _without_surrogates(text: str) -> str:
    """Returns the text with a question mark for each half of a surrogate pair, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
