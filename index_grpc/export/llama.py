"""Writes a checkpoint as a plain Llama, which transformers, vLLM and this server load without code made for it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import AddedToken, LlamaConfig, LlamaTokenizer

from index_grpc.export.template import chat_template
from index_grpc.export.weights import PlainWeights
from index_grpc.model.checkpoint import HEAD
from index_grpc.model.config import ModelConfig, read_config
from index_grpc.model.json_file import read_object
from index_grpc.text.layout import BOS_ID, EOS_ID, PAD_ID, STOP_IDS
from index_grpc.text.tokenizer import MARKERS, Tokenizer

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 2**30
"""About the size of a file of weights, and so of the memory that writing takes."""

ChangeHead = Callable[[Tensor], Tensor]


def write_llama(source: Path, directory: Path) -> None:
    """Writes the checkpoint at `source` into `directory`: config, tokenizer with its template, weights.

    The norm head is folded into the weights, which keep their number format. Raises CheckpointError.
    """
    config = read_config(source)
    Tokenizer.load(source)  # raises if the tokenizer is not supported
    directory.mkdir(parents=True, exist_ok=True)
    write_config(config, directory)
    write_generation_config(source, directory)
    write_tokenizer((source / "tokenizer.model").read_bytes(), chat_template(source), directory)
    write_weights(source, directory, config)


def write_config(config: ModelConfig, directory: Path) -> None:
    """Writes `config.json`."""
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
        tie_word_embeddings=config.tie_word_embeddings and not config.norm_head,
    ).save_pretrained(directory)


def write_generation_config(source: Path, directory: Path) -> None:
    """Writes the checkpoint's own defaults for sampling, with every id that ends an answer."""
    path = source / "generation_config.json"
    values = read_object(path) if path.exists() else {}
    values = {key: value for key, value in values.items() if key != "_from_model_config"}
    ids = {"bos_token_id": BOS_ID, "eos_token_id": sorted(STOP_IDS), "pad_token_id": PAD_ID}
    (directory / "generation_config.json").write_text(json.dumps(values | ids, indent=2))


def write_tokenizer(model: bytes, template: str, directory: Path) -> None:
    """Writes `tokenizer.model`, and the same in the form of transformers, with the marks of turns as special tokens."""
    (directory / "tokenizer.model").write_bytes(model)
    marks = [AddedToken(piece, special=True, normalized=False) for piece in MARKERS.values()]
    LlamaTokenizer.from_pretrained(
        directory,
        add_prefix_space=False,
        add_bos_token=False,
        additional_special_tokens=marks,
        chat_template=template,
    ).save_pretrained(directory)


def write_weights(source: Path, directory: Path, config: ModelConfig, change_head: ChangeHead | None = None) -> None:
    """Writes the weights into files of about SHARD_BYTES, and their index. The head is folded and then changed."""
    files: dict[str, str] = {}
    num_bytes = 0
    for number, shard in enumerate(_shards(_tensors(source, config, change_head)), start=1):
        file = f"model-{number:05}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        (directory / file).chmod((directory / "config.json").stat().st_mode)  # others may read it, like config.json
        files |= dict.fromkeys(shard, file)
        num_bytes += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": num_bytes}, "weight_map": files}
    (directory / INDEX).write_text(json.dumps(index, indent=1))


def _tensors(source: Path, config: ModelConfig, change_head: ChangeHead | None) -> Iterator[tuple[str, Tensor]]:
    weights = PlainWeights(source, config)
    for name in tqdm(weights.shapes, unit="tensor", desc="llama", disable=None):  # None: only a terminal shows it
        tensor = weights.read(name)
        if name == HEAD and change_head is not None:
            tensor = change_head(tensor)
        yield name, tensor.contiguous()


def _shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if shard and sum(other.nbytes for other in shard.values()) + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard
