"""Loads a checkpoint's weights into a module on the meta device, one tensor at a time."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn
from torch.nn import functional

from index_grpc.errors import CheckpointError
from index_grpc.model.config import DTYPES, ModelConfig
from index_grpc.model.weight_files import StoredTensor, open_weights
from index_grpc.model.weight_samples import WeightSamples

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"
MOST_PROBLEMS = 10


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of all tensors that a checkpoint must have."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for index in range(config.num_layers):
        tensors |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    tensors[FINAL_NORM] = (hidden,)
    return tensors if config.tie_word_embeddings else tensors | {HEAD: (config.vocab_size, hidden)}


def num_parameters(config: ModelConfig) -> int:
    """Counts the model's weights; those that the embedding and the head share count once."""
    return sum(math.prod(shape) for shape in expected_tensors(config).values())


def load_weights(
    directory: Path, config: ModelConfig, module: nn.Module, device: torch.device | str, dtype: torch.dtype
) -> str:
    """Loads every tensor into `module`, on `device` in `dtype`, folds the norm head and returns the weights' digest.

    The module's parameters have the checkpoint's names. Only one tensor at a time exists twice. Raises CheckpointError
    before anything is loaded if a file is broken or the tensors are not those that the config requires.
    """
    samples = WeightSamples()
    tensors = samples.watch(open_checked(directory, config))
    for name in expected_tensors(config):
        if name != HEAD:
            _place(module, name, read(tensors[name]), device, dtype)
    if config.tie_word_embeddings and not config.norm_head:
        module.get_submodule("lm_head").register_parameter("weight", module.get_parameter(EMBEDDING))
    else:
        _place(module, HEAD, read_head(tensors, config), device, dtype)
    return samples.digest()


def open_checked(directory: Path, config: ModelConfig) -> dict[str, StoredTensor]:
    """Opens the weights and checks names, shapes and types. Raises one CheckpointError that lists what is wrong."""
    expected = expected_tensors(config)
    ignored = {HEAD} if config.tie_word_embeddings else set()
    tensors = {
        name: tensor
        for name, tensor in open_weights(directory).items()
        if not name.endswith(".rotary_emb.inv_freq") and name not in ignored
    }
    problems = list(_problems(expected, tensors))
    if problems:
        listed = "; ".join(problems[:MOST_PROBLEMS])
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        raise CheckpointError(
            f"{directory}: weights do not fit config.json in {len(problems)} tensors: {listed}{more}; "
            "both must come from the same model"
        )
    return tensors


def fold_norm_head(weight: Tensor) -> Tensor:
    """Returns the head [vocab_size, hidden_size] with rows of length one, in the weight's own dtype.

    The model computes logits from normalised rows; with the rows normalised once, it is a plain Llama. Rounding is part
    of the result, so fold before any change of dtype. Folding twice changes nothing but the rounding.
    """
    smallest = torch.finfo(weight.dtype).smallest_normal * torch.finfo(weight.dtype).eps
    return functional.normalize(weight, dim=1, eps=max(1e-12, smallest))  # 1e-12 is zero in float16


def _problems(expected: dict[str, tuple[int, ...]], tensors: dict[str, StoredTensor]) -> Iterable[str]:
    for name, shape in expected.items():
        if name not in tensors:
            yield f"{name} {list(shape)} is missing"
        elif tensors[name].shape != shape:
            yield f"{name} is {list(tensors[name].shape)} and should be {list(shape)}"
        elif tensors[name].dtype not in DTYPES:
            yield f"{name} is {tensors[name].dtype} and should be one of {', '.join(DTYPES)}"
    for name in tensors.keys() - expected.keys():
        yield f"{name} is not expected"


def read_head(tensors: dict[str, StoredTensor], config: ModelConfig) -> Tensor:
    """Reads the head's weight [vocab_size, hidden_size] and folds the norm head."""
    head = read(tensors[EMBEDDING if config.tie_word_embeddings else HEAD])
    return fold_norm_head(head) if config.norm_head else head


def read(tensor: StoredTensor) -> Tensor:
    """Reads a tensor's values, perhaps as a view of the mapped file. Raises CheckpointError if that fails."""
    try:
        return tensor.read()
    except Exception as error:  # the reader may raise anything if the file has changed since it was opened
        raise CheckpointError(f"{tensor.path}: cannot be read ({error}); download it again") from error


def _place(module: nn.Module, name: str, value: Tensor, device: torch.device | str, dtype: torch.dtype) -> None:
    # Always copies: the value may be a view of the mapped file, which can change or vanish while the service runs.
    # Rows of a weight are contiguous afterwards; those of a pickle may be views of a transposed tensor.
    value = value.to(device=device, dtype=dtype, copy=True, memory_format=torch.contiguous_format)
    set_module_tensor_to_device(module, name, device, value=value, dtype=dtype, clear_cache=False)
