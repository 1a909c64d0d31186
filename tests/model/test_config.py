"""Reading config.json: which models are served, and clear errors for others."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from index_grpc.errors import CheckpointError
from index_grpc.model.config import ModelConfig, read_config

INDEX_CHAT: dict[str, Any] = {
    "architectures": ["IndexForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_index.IndexForCausalLM"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.01,
    "intermediate_size": 5888,
    "max_length": 4096,
    "max_position_embeddings": 4096,
    "model_type": "index",
    "norm_head": 1,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 16,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 65029,
}
LLAMA = {key: value for key, value in INDEX_CHAT.items() if key not in ("auto_map", "norm_head")} | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
}
ABSENT = object()


def read(directory: Path, values: dict[str, Any], **changes: object) -> ModelConfig:
    """Reads a config.json with these values and changes; ABSENT removes a key."""
    changed = {key: value for key, value in {**values, **changes}.items() if value is not ABSENT}
    (directory / "config.json").write_text(json.dumps(changed))
    return read_config(directory)


def test_index_chat(tmp_path: Path) -> None:
    assert read(tmp_path, INDEX_CHAT) == ModelConfig(
        num_layers=36,
        hidden_size=2048,
        intermediate_size=5888,
        num_heads=16,
        num_kv_heads=16,
        head_dim=128,
        vocab_size=65029,
        context_length=4096,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        norm_head=True,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def test_index_with_longer_context(tmp_path: Path) -> None:
    config = read(tmp_path, INDEX_CHAT, rope_ratio=32, max_position_embeddings=32768)
    assert (config.rope_theta, config.context_length) == (320000.0, 32768)


@pytest.mark.parametrize(
    ("rope", "theta"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "factor": 8.0, "beta_fast": 32}}, 5e5),
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_ratio": 32}, 320000.0),
        ({"rope_parameters": {"type": "default", "rope_theta": None}, "rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"partial_rotary_factor": 1}, "partial_rotary_factor": 1.0}, 10000.0),
        ({"rope_parameters": None}, 10000.0),
        ({"rope_parameters": {}}, 10000.0),
    ],
)
def test_index_rope_settings_old_and_new(tmp_path: Path, rope: dict[str, Any], theta: float) -> None:
    assert read(tmp_path, INDEX_CHAT, **{"rope_scaling": ABSENT} | rope).rope_theta == theta


@pytest.mark.parametrize(
    ("rope", "reason"),
    [
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}},
            "rope_type is 'linear'; supported: 'default'",
        ),
        ({"rope_parameters": {"type": "dynamic", "factor": 2.0}}, "type is 'dynamic'; supported: 'default'"),
        ({"rope_parameters": {"rope_type": "default", "type": "yarn"}}, "type is 'yarn'; supported: 'default'"),
        ({"rope_parameters": {"rope_type": ["default"]}}, "rope_type is ['default']; supported: 'default'"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "linear"}}},
            "full_attention is {'rope_type': 'linear'}, which is not computed here; serve another model",
        ),
        ({"rope_parameters": {"factor": 8.0}}, "factor is 8.0, which is not computed here; serve another model"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5; supported is only 1.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; supported is only 1.0"),
        ({"partial_rotary_factor": "all"}, "partial_rotary_factor is 'all' and should be a number"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0 and should be a number above 0"),
        ({"rope_parameters": ["linear"]}, "rope_parameters is ['linear'] and should be a JSON object"),
        (
            {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4},
            "rope_theta is 10000.0, but 500000.0 in rope_parameters; keep only the one that the model was trained with",
        ),
    ],
)
def test_index_rope_settings_that_cannot_be_served(tmp_path: Path, rope: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        read(tmp_path, INDEX_CHAT, **{"rope_scaling": ABSENT} | rope)


@pytest.mark.parametrize(
    ("value", "folded"), [(1, True), (True, True), (0, False), (False, False), (None, False), (ABSENT, False)]
)
def test_norm_head_may_be_a_number_a_boolean_or_absent(tmp_path: Path, value: object, folded: bool) -> None:
    assert read(tmp_path, INDEX_CHAT, norm_head=value).norm_head is folded


def test_llama_is_the_same_without_a_norm_head(tmp_path: Path) -> None:
    index = read(tmp_path, INDEX_CHAT, norm_head=0)
    assert read(tmp_path, LLAMA) == index
    assert read(tmp_path, LLAMA, norm_head=1) == index


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 320000.0},
        {"rope_theta": 320000, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 320000.0}},
        {"rope_theta": 320000.0, "rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default", "rope_theta": 320000.0}, "rope_parameters": {"rope_theta": 1e4}},
        {"rope_scaling": {}, "rope_parameters": {"rope_theta": 320000.0, "partial_rotary_factor": 1.0}},
    ],
)
def test_llama_rope_settings_old_and_new(tmp_path: Path, rope: dict[str, Any]) -> None:
    changes = {"rope_scaling": ABSENT} | rope
    assert read(tmp_path, LLAMA, **changes).rope_theta == 320000.0
    assert theta_by_transformers(rope) == 320000.0


def test_llama_with_no_rope_settings_has_those_of_transformers(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA, rope_theta=ABSENT, rope_scaling=ABSENT).rope_theta == theta_by_transformers({})


def theta_by_transformers(rope: dict[str, Any]) -> float:
    parameters: Any = LlamaConfig(**rope).rope_parameters
    return float(parameters["rope_theta"])


def test_llama_with_grouped_heads_and_the_newer_dtype_key(tmp_path: Path) -> None:
    config = read(tmp_path, LLAMA, num_key_value_heads=4, head_dim=64, torch_dtype=ABSENT, dtype="float16")
    assert (config.num_kv_heads, config.head_dim, config.dtype) == (4, 64, "float16")
    config = read(tmp_path, LLAMA, num_key_value_heads=ABSENT, torch_dtype=ABSENT, tie_word_embeddings=True)
    assert (config.num_kv_heads, config.dtype, config.tie_word_embeddings) == (16, "float32", True)


@pytest.mark.parametrize("values", [INDEX_CHAT, LLAMA], ids=["index", "llama"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", ABSENT),
        ("num_hidden_layers", None),
        ("num_hidden_layers", 0),
        ("vocab_size", -1),
        ("vocab_size", True),
        ("intermediate_size", "5888"),
        ("max_position_embeddings", 4096.5),
        ("num_attention_heads", 17),
        ("num_key_value_heads", 3),
        ("head_dim", 63),
        ("num_hidden_layers", 10_001),
        ("hidden_size", 2**24 + 1),
        pytest.param("intermediate_size", 10**400, id="intermediate_size-huge"),
        ("vocab_size", 2**31),
        ("head_dim", 2**25),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", 1),
        pytest.param("rms_norm_eps", 10**400, id="rms_norm_eps-huge"),
        ("rms_norm_eps", float("nan")),
        ("tie_word_embeddings", "no"),
        ("hidden_act", "gelu"),
        ("torch_dtype", "int8"),
        ("rope_theta", -1.0),
        ("rope_theta", 0.5),
        ("rope_theta", 1e300),
        pytest.param("rope_theta", 10**400, id="rope_theta-huge"),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("quantization_config", {"quant_method": "gptq"}),
    ],
)
def test_values_that_cannot_be_served_are_named(
    tmp_path: Path, values: dict[str, Any], key: str, value: object
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, values, **{key: value})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: ")
    assert key.replace("rope_scaling", "rope") in message.replace("rope scaling", "rope_scaling")
    assert value is ABSENT or value is None or "linear" in message or str(value) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("num_hidden_layers", 2**31, "a whole number from 1 to 10000"),
        ("vocab_size", 2**24 + 1, "a whole number from 1 to 16777216"),
        ("num_attention_heads", 0, "a whole number from 1 to 16777216"),
        ("rms_norm_eps", 1.0, "a number above 0 and below 1"),
        ("rope_theta", 10**31, "a number above 0 and below 1e+30"),
    ],
)
def test_the_limit_of_a_number_is_named(tmp_path: Path, key: str, value: object, limit: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{key} is {value} and should be {limit}")):
        read(tmp_path, INDEX_CHAT, **{key: value})


def test_the_largest_sizes_are_served(tmp_path: Path) -> None:
    config = read(tmp_path, INDEX_CHAT, num_hidden_layers=10_000, vocab_size=2**24, rope_theta=1, rms_norm_eps=0.99)
    assert (config.num_layers, config.vocab_size, config.rope_theta) == (10_000, 2**24, 1.0)


@pytest.mark.parametrize(("theta", "ratio"), [(1e20, 1e20), (1e-320, 1e-20), (2, 0.25)])
def test_a_rope_base_out_of_bounds_only_with_its_ratio_is_refused(tmp_path: Path, theta: float, ratio: float) -> None:
    with pytest.raises(CheckpointError, match=r"rope_theta, rope_ratio included, is \S+; allowed is 1 to 1e\+30"):
        read(tmp_path, INDEX_CHAT, rope_theta=theta, rope_ratio=ratio)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("sliding_window", 1024),
        ("rope_scaling", {"type": "dynamic", "factor": 4.0}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        ("rope_parameters", {"full_attention": {"rope_type": "linear", "factor": 2.0}}),
        ("partial_rotary_factor", 0.5),
    ],
)
def test_llama_variants_that_are_not_computed(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=r"not computed|supported"):
        read(tmp_path, LLAMA, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("norm_head", 2), ("norm_head", "yes"), ("rope_ratio", 0), ("rope_ratio", "32")]
)
def test_index_values_that_make_no_sense(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is {value!r}"):
        read(tmp_path, INDEX_CHAT, **{key: value})


@pytest.mark.parametrize("model_type", ["qwen2", None, ["llama"], 7])
def test_other_models_are_refused(tmp_path: Path, model_type: object) -> None:
    with pytest.raises(CheckpointError, match="supported are 'index' and 'llama'; serve IndexTeam"):
        read(tmp_path, INDEX_CHAT, model_type=model_type)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON in UTF-8"),
        (b"[1]", "holds a list"),
        pytest.param(b"[" * 10_000, "is not JSON", id="nested"),
    ],
)
def test_unreadable_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_config(tmp_path)


@pytest.mark.parametrize("values", [INDEX_CHAT, LLAMA], ids=["index", "llama"])
def test_reading_a_config_needs_neither_torch_nor_transformers(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    program = (
        "import sys, pathlib; from index_grpc.model.config import read_config; "
        f"read_config(pathlib.Path({str(tmp_path)!r})); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
