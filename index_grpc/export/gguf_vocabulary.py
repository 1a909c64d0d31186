"""A checkpoint's tokenizer and prompt layout in the form of GGUF."""

from pathlib import Path

import gguf
from sentencepiece import SentencePieceProcessor

from index_grpc.export.template import chat_template
from index_grpc.text.layout import BOS_ID, EOS_ID, PAD_ID, USER_ID
from index_grpc.text.tokenizer import NUM_CONTROL_IDS

UNUSED_SCORE = -1e6
"""The score of unused pieces, below those of all real ones."""


def add_vocabulary(writer: gguf.GGUFWriter, source: Path, vocab_size: int) -> None:
    """Adds a piece for every row of the model, an unused one where the tokenizer has none, and the chat template."""
    pieces = SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    ids = range(pieces.get_piece_size())
    spare = range(len(ids), vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*(pieces.id_to_piece(i).encode() for i in ids), *(f"[PAD{i}]".encode() for i in spare)])
    writer.add_token_scores([*(pieces.get_score(i) for i in ids), *(UNUSED_SCORE for _ in spare)])
    writer.add_token_types([*(_kind(pieces, i) for i in ids), *(gguf.TokenType.UNUSED for _ in spare)])
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_eot_token_id(USER_ID)  # a model that opens the user's next turn has ended its own
    writer.add_unk_token_id(PAD_ID)
    writer.add_pad_token_id(PAD_ID)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(chat_template(source))


def _kind(pieces: SentencePieceProcessor, token_id: int) -> gguf.TokenType:
    if pieces.is_unknown(token_id):
        return gguf.TokenType.UNKNOWN
    if pieces.is_control(token_id) or token_id < NUM_CONTROL_IDS:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if pieces.is_byte(token_id) else gguf.TokenType.NORMAL
