"""The runner for CUDA with a model so small that the interpreter computes a step in a fraction of a second."""

from pathlib import Path

import torch

from index_grpc.engine.cuda.runner import CudaRunner
from index_grpc.engine.limits import Limits
from index_grpc.model.checkpoint import load_weights
from index_grpc.model.config import read_config
from index_grpc.model.cuda import CudaLlama
from index_grpc.model.weights import LlamaWeights
from tests.checkpoints import make_checkpoint

MAX_SEQUENCES, CHUNK_TOKENS, CONTEXT = 3, 32, 128
POISON = 259
"""A token whose embedding is NaN."""


def small_checkpoint(directory: Path) -> Path:
    """Writes a checkpoint with one layer of one head."""
    return make_checkpoint(
        directory,
        hidden_size=32,
        intermediate_size=48,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        context_length=CONTEXT,
        byte_fallback=False,
    )


def small_model(directory: Path, device: torch.device) -> CudaLlama:
    """The checkpoint's model, in float32."""
    config = read_config(directory)
    weights = LlamaWeights(config)
    with torch.inference_mode():
        load_weights(directory, config, weights, device, torch.float32)
        model = CudaLlama(config, weights)
        model.embedding[POISON] = torch.nan
    return model


def small_runner(model: CudaLlama, num_blocks: int = 24) -> tuple[CudaRunner, Limits]:
    """A runner with an empty cache, and its limits."""
    limits = Limits(
        context_length=CONTEXT,
        max_sequences=MAX_SEQUENCES,
        max_waiting=9,
        num_blocks=num_blocks,
        block_tokens=model.block_tokens,
        chunk_tokens=CHUNK_TOKENS,
        alignment_tokens=1,
    )
    return CudaRunner(model, MAX_SEQUENCES, num_blocks, CHUNK_TOKENS), limits
