"""Loads a checkpoint into the native model: reads, packs and frees one matrix of the mapped files at a time."""

from pathlib import Path

import torch
from torch import Tensor

from index_grpc.model.checkpoint import EMBEDDING, FINAL_NORM, open_checked, read, read_head
from index_grpc.model.config import ModelConfig
from index_grpc.model.native import Kernels, NativeLlama, shortened
from index_grpc.model.weight_files import StoredTensor
from index_grpc.model.weight_samples import WeightSamples
from index_grpc.native import library as native

MATRICES = {
    native.QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    native.OUTPUT: ("self_attn.o_proj",),
    native.GATE_UP: ("mlp.gate_proj", "mlp.up_proj"),
    native.DOWN: ("mlp.down_proj",),
}
"""The projections of each matrix: those that read the same input are joined."""

NORMS = {native.INPUT_NORM: "input_layernorm", native.POST_ATTENTION_NORM: "post_attention_layernorm"}


def load_native(directory: Path, config: ModelConfig, kernels: Kernels, num_threads: int, as_int8: bool) -> NativeLlama:
    """Returns a model with the checkpoint's weights. Raises CheckpointError for what `open_checked` refuses."""
    samples = WeightSamples()
    tensors, model = samples.watch(open_checked(directory, config)), NativeLlama(config, kernels, num_threads)
    model.set_embedding(shortened(read(tensors[EMBEDDING])).clone())
    for index in range(config.num_layers):
        for number, names in MATRICES.items():
            model.set_matrix(index, number, _joined(tensors, index, names), as_int8)
        for number, name in NORMS.items():
            model.set_norm(index, number, _joined(tensors, index, (name,)))
    model.set_norm(native.MODEL, 0, read(tensors[FINAL_NORM]))
    model.set_matrix(native.MODEL, 0, read_head(tensors, config), as_int8)
    model.weights_digest = samples.digest()
    return model


def _joined(tensors: dict[str, StoredTensor], index: int, names: tuple[str, ...]) -> Tensor:
    parts = [read(tensors[f"model.layers.{index}.{name}.weight"]) for name in names]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
