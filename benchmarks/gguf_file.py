"""Writes a plain Llama directory as one GGUF file, one tensor at a time."""

from pathlib import Path

import gguf
import numpy
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor
from tqdm import tqdm

from index_grpc.model.checkpoint import expected_tensors, open_checked
from index_grpc.model.config import ModelConfig, read_config
from index_grpc.text.layout import BOS_ID, EOS_ID

Array = NDArray[numpy.float32]

KINDS = {"f32": GGMLQuantizationType.F32, "q8_0": GGMLQuantizationType.Q8_0}

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


def write_gguf(llama: Path, path: Path, kind: str) -> None:
    """Writes `path`; `kind` is one of KINDS. Raises CheckpointError for a directory that holds no such model."""
    config = read_config(llama)
    tensors = open_checked(llama, config)
    writer = gguf.GGUFWriter(path, "llama")
    _add_shape(writer, config)
    _add_vocabulary(writer, SentencePieceProcessor(model_file=str(llama / "tokenizer.model")))
    for name, shape in expected_tensors(config).items():
        stored = _stored_kind(shape, kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        num_bytes = int(numpy.prod(shape)) // block * block_bytes
        row_bytes = (*shape[:-1], shape[-1] // block * block_bytes)  # a quantised shape is counted in bytes
        quantised = stored is not GGMLQuantizationType.F32
        dtype = numpy.dtype(numpy.uint8 if quantised else numpy.float32)
        writer.add_tensor_info(_gguf_name(name), row_bytes if quantised else shape, dtype, num_bytes, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape in tqdm(expected_tensors(config).items(), unit="tensor", desc=path.name):
        array: Array = tensors[name].read().float().numpy()
        writer.write_tensor_data(gguf.quants.quantize(_rotary_pairs(name, array, config), _stored_kind(shape, kind)))
    writer.close()


def _stored_kind(shape: tuple[int, ...], kind: str) -> GGMLQuantizationType:
    """Only matrices are quantised."""
    return KINDS[kind] if len(shape) > 1 else GGMLQuantizationType.F32


def _gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _rotary_pairs(name: str, array: Array, config: ModelConfig) -> Array:
    """Rows of a query or key projection in llama.cpp's order: it turns neighbours where transformers turns halves."""
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


def _add_vocabulary(writer: gguf.GGUFWriter, pieces: SentencePieceProcessor) -> None:
    kinds, ids = gguf.TokenType, range(pieces.get_piece_size())
    types = [
        kinds.UNKNOWN if pieces.is_unknown(i)
        else kinds.CONTROL if pieces.is_control(i)
        else kinds.BYTE if pieces.is_byte(i)
        else kinds.NORMAL
        for i in ids
    ]  # fmt: skip
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i).encode() for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types(types)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(False)
