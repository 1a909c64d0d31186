"""Writes llama.cpp's logits for given token ids, to compare them with others.

Reads {"prompts": [[ids], …]} from standard input and writes a .npy file, float32 [tokens of all prompts, vocab_size].

    python -m peers.llamacpp_logits CHECKPOINT/q8_0.gguf OUT.npy --threads 2 < prompts.json
"""

import argparse
import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy


def logits(path: Path, prompts: list[list[int]], threads: int) -> "numpy.ndarray[Any, Any]":
    """The logits after every token. Raises RuntimeError for a file that llama.cpp cannot load."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"{path}: llama.cpp cannot load it")
    vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    values = llama_cpp.llama_context_default_params()
    values.n_ctx = values.n_batch = values.n_ubatch = max(256, *map(len, prompts))
    values.n_threads = values.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, values)
    parts = [_prompt_logits(context, prompt, vocab_size) for prompt in prompts]
    llama_cpp.llama_free(context)
    return numpy.concatenate(parts)


def _prompt_logits(context: Any, prompt: list[int], vocab_size: int) -> "numpy.ndarray[Any, Any]":  # noqa: ANN401
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(prompt), 0, 1)
    batch.n_tokens = len(prompt)
    for place, token_id in enumerate(prompt):
        batch.token[place], batch.pos[place], batch.logits[place] = token_id, place, True
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    if status := llama_cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama_decode of {len(prompt)} tokens failed with status {status}")
    pointer = llama_cpp.llama_get_logits(context)
    found = numpy.ctypeslib.as_array(pointer, shape=(len(prompt) * vocab_size,)).reshape(len(prompt), vocab_size)
    copied = found.astype(numpy.float32, copy=True)
    llama_cpp.llama_batch_free(batch)
    return copied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p())
    numpy.save(options.out, logits(options.checkpoint, json.load(sys.stdin)["prompts"], options.threads))


SILENT: Any = llama_cpp.llama_log_callback(lambda level, text, user_data: None)


if __name__ == "__main__":
    main()
