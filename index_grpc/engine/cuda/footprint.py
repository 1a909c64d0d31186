"""The device memory that steps take in addition to the weights and the KV cache."""

from index_grpc.cuda.decode_attention import num_splits
from index_grpc.engine.cuda.drawing import ROWS_AT_ONCE
from index_grpc.engine.cuda.shapes import MOST_PROMPTS
from index_grpc.model.cuda import CudaLlama

LOOKED_AT_BYTES = 96
"""Bytes per logit while PyTorch sorts its row and draws from it; log-probabilities take less."""
OTHER_BYTES = 512 * 2**20
"""Bytes of compiled kernels, of recorded steps and of PyTorch's own buffers."""


def footprint_bytes(model: CudaLlama, max_sequences: int, chunk_tokens: int) -> int:
    """Returns the bytes that the runner holds all the time, plus the most that it takes temporarily."""
    vocab_size, token_bytes = model.config.vocab_size, _token_bytes(model)
    logits = 4 * vocab_size * (max_sequences + MOST_PROMPTS)
    history = 5 * vocab_size * (max_sequences + 1)  # whether each token occurred, in a byte, and how often, in four
    tokens = token_bytes * (chunk_tokens + max_sequences)
    held = logits + history + _scratch_bytes(model, max_sequences) + tokens
    looking = LOOKED_AT_BYTES * vocab_size * min(ROWS_AT_ONCE, max_sequences)
    # One step may have more prompts than a recorded step samples.
    more = token_bytes * chunk_tokens + 4 * vocab_size * max_sequences if max_sequences > MOST_PROMPTS else 0
    return held + looking + more + OTHER_BYTES


def _token_bytes(model: CudaLlama) -> int:
    """Returns the bytes of a layer's intermediate results for one token."""
    config = model.config
    num_heads = 2 * (config.num_heads + config.num_kv_heads)  # queries, keys, values and attention's outputs
    return model.dtype.itemsize * (4 * config.hidden_size + num_heads * config.head_dim + config.intermediate_size)


def _scratch_bytes(model: CudaLlama, max_sequences: int) -> int:
    """Returns the bytes of `Scratch`, through which attention's programs pass partial sums."""
    config = model.config
    return 4 * max_sequences * config.num_heads * num_splits(config.context_length) * (config.head_dim + 2)
