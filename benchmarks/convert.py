"""Converts a checkpoint of ours to the formats of the peers, so that all compute the same model.

Writes to DIRECTORY `llama/`, a plain Llama that transformers, vLLM and our own server can load, and `f32.gguf` and
`q8_0.gguf` for llama.cpp. The norm head is folded into the weights, as the server does when it loads them. The other
changes, which make the checkpoint fit for benchmarks, are described in `plain_llama.py`.

    python benchmarks/random_checkpoint.py mid /tmp/mid && python benchmarks/convert.py /tmp/mid /tmp/peers/mid
"""

import argparse
from pathlib import Path

import torch
from plain_llama import without_endings, write_companions

from index_grpc.export.gguf_file import KINDS, write_gguf
from index_grpc.export.llama import write_weights

GGUF = ("f32", "q8_0")


def write_benchmark_llama(source: Path, directory: Path) -> None:
    """Writes config, tokenizer and weights in the checkpoint's number format. Raises CheckpointError."""
    config = write_companions(source, directory)
    write_weights(source, directory, config, without_endings)


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
