"""The model's shape, as read from a checkpoint's `config.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index_grpc.errors import CheckpointError
from index_grpc.model.fields import LARGEST_FLOAT, Fields
from index_grpc.model.json_file import read_object

KEYS_OF_OTHER_TYPES = (
    "factor", "attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings",
)  # fmt: skip
"""Keys of rope settings that a rotary embedding of type `default` does not read; a fine-tune may have left them."""
DEFAULT_ROPE_THETA = 10000.0
SMALLEST_THETA, LARGEST_THETA = 1.0, LARGEST_FLOAT
MOST_LAYERS = 10_000
SHORTEST_CONTEXT, LONGEST_CONTEXT = 16, 2**20
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a Llama model, with or without a norm head. Its sizes always fit together."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    """Number of positions for which the model was trained."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = DEFAULT_ROPE_THETA
    norm_head: bool = False
    """Whether each row of `lm_head.weight` is normalised to length one."""
    tie_word_embeddings: bool = False
    dtype: str = "bfloat16"
    """The dtype of the weights according to the file: one of DTYPES."""

    def __post_init__(self) -> None:
        """Raises ValueError with the names of the fields that do not fit."""
        if self.num_heads % self.num_kv_heads:
            heads = f"num_attention_heads {self.num_heads} is no multiple of num_key_value_heads"
            raise ValueError(f"{heads} {self.num_kv_heads}")
        if not SHORTEST_CONTEXT <= self.context_length <= LONGEST_CONTEXT:
            allowed = f"allowed is {SHORTEST_CONTEXT} to {LONGEST_CONTEXT}"
            raise ValueError(f"max_position_embeddings is {self.context_length}; {allowed}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embedding turns pairs")
        if not SMALLEST_THETA <= self.rope_theta <= LARGEST_THETA:
            allowed = f"allowed is {SMALLEST_THETA:g} to {LARGEST_THETA:g}"
            raise ValueError(f"rope_theta, rope_ratio included, is {self.rope_theta}; {allowed}")


def position_bytes(config: ModelConfig, item_bytes: int) -> int:
    """Returns the bytes of one position's keys and values in all layers, at `item_bytes` for each number."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * item_bytes


def read_config(directory: Path) -> ModelConfig:
    """Reads `config.json`. Raises CheckpointError with the file, the key and the value that is not supported."""
    path = directory / "config.json"
    values = read_object(path, "a checkpoint's directory has a config.json")
    model_type = values.get("model_type")
    readers = {"index": _index_config, "llama": _llama_config}
    if not isinstance(model_type, str) or model_type not in readers:
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}; supported are {' and '.join(map(repr, readers))}; "
            "serve IndexTeam/Index-1.9B-Chat or a Llama checkpoint with its tokenizer"
        )
    try:
        return readers[model_type](values)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _index_config(values: dict[str, Any]) -> ModelConfig:
    fields = Fields(values)
    fields.refuse("rope_scaling", "quantization_config")
    theta = _theta(fields, "rope_parameters") * fields.positive_float("rope_ratio", 1.0)
    return _shape(fields, theta, norm_head=fields.flag("norm_head", False))


def _llama_config(values: dict[str, Any]) -> ModelConfig:
    fields = Fields(values)
    fields.refuse("quantization_config", "sliding_window", "attention_bias", "mlp_bias")
    theta = _theta(fields, "rope_scaling" if values.get("rope_scaling") else "rope_parameters")
    return _shape(fields, theta, norm_head=False)


def _theta(fields: Fields, group: str) -> float:
    """Returns the base of the rotary embedding: a top-level field or, as transformers 5 writes it, one of the group.

    transformers reads the same value, but importing it would take longer than everything else at start.
    """
    inner = fields.group(group)
    inner_theta = _plain_theta(inner)
    unread = KEYS_OF_OTHER_TYPES if "rope_type" in inner or "type" in inner else ()
    inner.refuse_all_but("rope_type", "type", "rope_theta", "partial_rotary_factor", *unread)
    _refuse_partial_rotation(fields)
    theta = fields.positive_float("rope_theta", inner_theta)
    if "rope_theta" in inner and theta != inner_theta:
        remedy = "keep only the one that the model was trained with"
        raise ValueError(f"rope_theta is {theta}, but {inner_theta} in {group}; {remedy}")
    return theta


def _plain_theta(rope: Fields) -> float:
    """Returns the base of the rotary embedding. Raises ValueError if the embedding is not of the plain kind."""
    for key in ("rope_type", "type"):  # the newer name and the older one
        rope.one_of(key, ("default",), default="default")
    _refuse_partial_rotation(rope)
    return rope.positive_float("rope_theta", DEFAULT_ROPE_THETA)


def _refuse_partial_rotation(rope: Fields) -> None:
    share = rope.positive_float("partial_rotary_factor", 1.0)
    if share != 1.0:
        raise ValueError(f"partial_rotary_factor is {share}; supported is only 1.0")


def _shape(fields: Fields, rope_theta: float, norm_head: bool) -> ModelConfig:
    fields.one_of("hidden_act", ("silu",), default="silu")
    num_heads = fields.positive_int("num_attention_heads")
    hidden_size = fields.positive_int("hidden_size")
    if "head_dim" not in fields and hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}")
    dtype_key = "dtype" if "dtype" in fields else "torch_dtype"  # `dtype` is the newer name
    return ModelConfig(
        num_layers=fields.positive_int("num_hidden_layers", most=MOST_LAYERS),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_int("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=fields.positive_int("num_key_value_heads", num_heads),
        head_dim=fields.positive_int("head_dim", hidden_size // num_heads),
        vocab_size=fields.positive_int("vocab_size"),
        context_length=fields.positive_int("max_position_embeddings"),
        rms_norm_eps=fields.positive_float("rms_norm_eps", 1e-6, below=1.0),
        rope_theta=rope_theta,
        norm_head=norm_head,
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        dtype=fields.one_of(dtype_key, DTYPES, default="float32"),
    )
