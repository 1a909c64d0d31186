"""Memory of the device that steps take besides weights, keys and values."""

from index_grpc.cuda.decode_attention import num_splits
from index_grpc.engine.device.drawing import ROWS_SORTED
from index_grpc.engine.device.shapes import MOST_PROMPTS
from index_grpc.model.cuda import CudaLlama

SORTED_BYTES = 40
"""For each logit while its row is sorted and drawn from."""
OTHER_BYTES = 512 * 2**20
"""Compiled kernels, recorded steps, and what PyTorch keeps for itself."""


def footprint_bytes(model: CudaLlama, max_sequences: int, chunk_tokens: int) -> int:
    """What the runner holds all the time, and what comes and goes at most."""
    config, vocab_size = model.config, model.config.vocab_size
    logits = 4 * vocab_size * (max_sequences + MOST_PROMPTS)
    history = 5 * vocab_size * (max_sequences + 1)  # whether each token occurred, in a byte, and how often, in four
    splits = max_sequences * config.num_heads * num_splits(config.context_length)
    attention = 4 * splits * (config.head_dim + 2)
    num_heads = 2 * (config.num_heads + config.num_kv_heads)  # queries, keys, values and what attention makes of them
    widths = 4 * config.hidden_size + num_heads * config.head_dim + config.intermediate_size
    tokens = model.dtype.itemsize * (chunk_tokens + max_sequences) * widths
    sorting = SORTED_BYTES * vocab_size * min(ROWS_SORTED, max_sequences)
    return logits + history + attention + tokens + sorting + OTHER_BYTES
