"""The detokenizer: turns token ids into text as they come."""

import codecs

from index_grpc.text.tokenizer import Tokenizer


class Detokenizer:
    """Turns one answer's ids into whole characters, just as SentencePiece would decode those ids alone.

    A character may be spread over several byte tokens: it comes with the last of them. Bytes that cannot become a
    character are dropped, and so is the beginning of a character that is never completed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._begun = b""
        """The bytes of a character that is not complete yet."""
        self._at_start = tokenizer.spaces_dropped_at_start != 0

    def push(self, token_id: int) -> str:
        """Returns the characters that this token completes."""
        data = self._tokenizer.token_bytes(token_id)
        if self._at_start and data:
            data = self._without_opening_space(token_id, data)
        data = self._begun + data
        text, num_bytes = codecs.utf_8_decode(data, "ignore")
        self._begun = data[num_bytes:]
        return text

    def _without_opening_space(self, token_id: int, data: bytes) -> bytes:
        shown = data if self._tokenizer.is_byte(token_id) else data.removeprefix(b" ")
        self._at_start = not shown and self._tokenizer.spaces_dropped_at_start is None
        return shown
