"""A checkpoint of ours as a plain Llama that every side can load, changed so that all compute the same.

- The head's rows of the control ids are zero, so no answer ends early.
- The tokenizer has a piece for every row of the model, so that every token has a text, as with a real model.
"""

import json
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2
from torch import Tensor

from index_grpc.export.llama import write_config, write_tokenizer
from index_grpc.export.template import chat_template
from index_grpc.model.config import ModelConfig, read_config
from index_grpc.text.layout import BOS_ID, EOS_ID, PAD_ID
from index_grpc.text.tokenizer import NUM_CONTROL_IDS

LAST_SCORE = -1e6
"""A score below those of all real pieces."""


def write_companions(source: Path, directory: Path) -> ModelConfig:
    """Writes everything except the weights, and returns the checkpoint's shape. Raises CheckpointError."""
    directory.mkdir(parents=True, exist_ok=True)
    config = read_config(source)
    write_config(config, directory)
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    (directory / "generation_config.json").write_text(json.dumps(ids))  # without sampling defaults
    write_tokenizer(whole_tokenizer(source, config.vocab_size), chat_template(source), directory)
    return config


def whole_tokenizer(source: Path, vocab_size: int) -> bytes:
    """The checkpoint's `tokenizer.model` with a piece for every id."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((source / "tokenizer.model").read_bytes())
    for token_id in range(len(model.pieces), vocab_size):
        model.pieces.add(piece=f"▁#{token_id}", score=LAST_SCORE - token_id)
    content: bytes = model.SerializeToString()
    return content


def without_endings(head: Tensor) -> Tensor:
    """The head [vocab_size, hidden_size] with zeros in the rows of the control ids."""
    head = head.clone()
    head[:NUM_CONTROL_IDS] = 0
    return head
