"""Writes a checkpoint as one GGUF file, one tensor at a time, for llama.cpp and programs that are built on it."""

import math
from pathlib import Path

import gguf
import numpy
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from tqdm import tqdm

from index_grpc.export.gguf_vocabulary import add_vocabulary
from index_grpc.export.weights import PlainWeights
from index_grpc.model.config import ModelConfig, read_config

Array = NDArray[numpy.float32]

KINDS = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
}
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""The format's numbers for the type of most tensors in a file."""

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(source: Path, path: Path, kind: str) -> None:
    """Writes the checkpoint at `source` as `path`; `kind` is one of KINDS. Raises CheckpointError."""
    config = read_config(source)
    weights = PlainWeights(source, config)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(FILE_TYPES[kind])
    _add_shape(writer, config)
    add_vocabulary(writer, source, config.vocab_size)
    for name, shape in weights.shapes.items():
        _announce(writer, _gguf_name(name), shape, _stored_kind(shape, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    tensors = weights.shapes.items()
    for name, shape in tqdm(tensors, unit="tensor", desc=path.name, disable=None):  # None: only a terminal shows it
        array: Array = weights.read(name).float().numpy()
        writer.write_tensor_data(gguf.quants.quantize(_rotary_pairs(name, array, config), _stored_kind(shape, kind)))
    writer.close()


def _announce(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], stored: GGMLQuantizationType) -> None:
    """Describes a tensor in the file's header; the shape of one that is not float32 is given in bytes."""
    if stored is GGMLQuantizationType.F32:
        writer.add_tensor_info(name, shape, numpy.dtype(numpy.float32), 4 * math.prod(shape), stored)
        return
    block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
    in_bytes = (*shape[:-1], shape[-1] // block * block_bytes)
    writer.add_tensor_info(name, in_bytes, numpy.dtype(numpy.uint8), math.prod(in_bytes), stored)


def _stored_kind(shape: tuple[int, ...], kind: str) -> GGMLQuantizationType:
    """Returns the type that a tensor is stored as: `kind` for matrices, float32 for all others."""
    return KINDS[kind] if len(shape) > 1 else GGMLQuantizationType.F32


def _gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _rotary_pairs(name: str, array: Array, config: ModelConfig) -> Array:
    """Returns a query or key projection with its rows in llama.cpp's order, and other tensors as they are.

    llama.cpp rotates neighbouring rows as pairs; transformers pairs the rows of a head's two halves.
    """
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return array
    halves = array.reshape(heads, 2, -1, array.shape[1])  # [heads, half, D / 2, hidden_size]
    return numpy.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def _add_shape(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
