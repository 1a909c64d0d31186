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
from gguf_file import KINDS, write_gguf
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaTokenizer

from index_grpc.model.checkpoint import HEAD, expected_tensors, fold_norm_head, open_checked
from index_grpc.model.config import ModelConfig, read_config
from index_grpc.text.layout import BOS_ID, EOS_ID
from index_grpc.text.tokenizer import NUM_CONTROL_IDS

PAD_ID = 0
LAST_SCORE = -1e6
"""Below those of all real pieces."""


def write_llama(source: Path, directory: Path, *, keep_endings: bool = False) -> None:
    """Writes config, tokenizer and weights, in the checkpoint's own number format. Raises CheckpointError.

    `keep_endings` leaves the head's rows of the control ids as they are.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = read_config(source)
    write_config(config, directory)
    write_tokenizer(source, directory, config.vocab_size)
    write_weights(source, directory, config, 0 if keep_endings else NUM_CONTROL_IDS)


def write_config(config: ModelConfig, directory: Path) -> None:
    """Writes `config.json`, and a `generation_config.json` without defaults for sampling."""
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype=config.dtype,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        tie_word_embeddings=False,
    ).save_pretrained(directory)
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    (directory / "generation_config.json").write_text(json.dumps(ids))


def write_tokenizer(source: Path, directory: Path, vocab_size: int) -> None:
    """Writes `tokenizer.model` with a piece for every id, and the same as transformers has it."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((source / "tokenizer.model").read_bytes())
    for token_id in range(len(model.pieces), vocab_size):
        model.pieces.add(piece=f"▁#{token_id}", score=LAST_SCORE - token_id)
    (directory / "tokenizer.model").write_bytes(model.SerializeToString())
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    LlamaTokenizer.from_pretrained(
        directory, add_prefix_space=False, add_bos_token=False, chat_template=settings["chat_template"]
    ).save_pretrained(directory)


def write_weights(source: Path, directory: Path, config: ModelConfig, num_silenced: int) -> None:
    """Writes a file for each tensor, so that never more than one of them is in memory, and their index."""
    tensors, files, num_bytes = open_checked(source, config), {}, 0
    for number, name in enumerate(tqdm(expected_tensors(config), unit="tensor", desc="llama")):
        tensor = tensors[name].read()
        if name == HEAD:
            tensor = folded_head(tensor, config.norm_head, num_silenced)
        files[name] = f"model-{number:05}.safetensors"
        save_file({name: tensor.contiguous()}, directory / files[name], metadata={"format": "pt"})
        num_bytes += tensor.nbytes
    index = {"metadata": {"total_size": num_bytes}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def folded_head(head: Tensor, norm_head: bool, num_silenced: int) -> Tensor:
    """The head [vocab_size, hidden_size] with its norm in it, and zero in the first `num_silenced` rows."""
    folded = fold_norm_head(head) if norm_head else head.clone()
    folded[:num_silenced] = 0
    return folded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="what benchmarks/random_checkpoint.py wrote")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gguf", nargs="*", choices=KINDS, default=list(KINDS), help="GGUF files to write")
    options = parser.parse_args()
    with torch.inference_mode():
        write_llama(options.checkpoint, options.directory / "llama")
        for kind in options.gguf:
            write_gguf(options.directory / "llama", options.directory / f"{kind}.gguf", kind)


if __name__ == "__main__":
    main()
