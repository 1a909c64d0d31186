"""Writes a checkpoint of ours in the formats of the peers, so that all compute the same model.

In DIRECTORY come `llama/`, a plain Llama that transformers, vLLM and our own server load, and `f32.gguf` and
`q8_0.gguf` for llama.cpp. What differs from the checkpoint is what makes a benchmark of it:

- The norm head is folded into the weights, as the server does while it loads them.
- The head's rows of the control ids are zero: nothing ends an answer early, so all peers do the same work.
- The tokenizer has a piece for every row of the model, so that every token comes out as text, as a real model's do.

    python benchmarks/random_checkpoint.py mid /tmp/mid && python benchmarks/convert.py /tmp/mid /tmp/peers/mid
"""

import argparse
import json
from pathlib import Path

import torch
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor

from index_grpc.export.gguf_file import KINDS, write_gguf
from index_grpc.export.llama import write_config, write_tokenizer, write_weights
from index_grpc.export.template import chat_template
from index_grpc.model.config import read_config
from index_grpc.text.layout import BOS_ID, EOS_ID, PAD_ID
from index_grpc.text.tokenizer import NUM_CONTROL_IDS

GGUF = ("f32", "q8_0")
LAST_SCORE = -1e6
"""Below those of all real pieces."""


def write_benchmark_llama(source: Path, directory: Path) -> None:
    """Writes config, tokenizer and weights, in the checkpoint's own number format. Raises CheckpointError."""
    directory.mkdir(parents=True, exist_ok=True)
    config = read_config(source)
    write_config(config, directory)
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    (directory / "generation_config.json").write_text(json.dumps(ids))  # no defaults for sampling
    write_tokenizer(whole_tokenizer(source, config.vocab_size), chat_template(source), directory)
    write_weights(source, directory, config, without_endings)


def whole_tokenizer(source: Path, vocab_size: int) -> bytes:
    """The checkpoint's `tokenizer.model` with a piece for every id."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((source / "tokenizer.model").read_bytes())
    for token_id in range(len(model.pieces), vocab_size):
        model.pieces.add(piece=f"▁#{token_id}", score=LAST_SCORE - token_id)
    content: bytes = model.SerializeToString()
    return content


def without_endings(head: Tensor) -> Tensor:
    """The head [vocab_size, hidden_size] with zero in the rows of the control ids."""
    head = head.clone()
    head[:NUM_CONTROL_IDS] = 0
    return head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="what benchmarks/random_checkpoint.py wrote")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gguf", nargs="*", choices=KINDS, default=list(GGUF), help="GGUF files to write")
    options = parser.parse_args()
    with torch.inference_mode():
        write_benchmark_llama(options.checkpoint, options.directory / "llama")
        for kind in options.gguf:
            write_gguf(options.directory / "llama", options.directory / f"{kind}.gguf", kind)


if __name__ == "__main__":
    main()
