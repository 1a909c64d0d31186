"""Loading weights from files into a module: every format, every fault."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from index_grpc.errors import CheckpointError
from index_grpc.model.checkpoint import expected_tensors, fold_norm_head, load_weights
from index_grpc.model.config import ModelConfig, read_config
from index_grpc.model.weights import LlamaWeights
from tests.checkpoints import make_checkpoint, read_weights, reference_model, write_weights

TINY: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 4}


def load(directory: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The parameters of the loaded module."""
    config = read_config(directory)
    module = LlamaWeights(config)
    load_weights(directory, config, module, "cpu", dtype)
    return module.state_dict()


def rewrite(directory: Path, changes: Mapping[str, Tensor | None]) -> None:
    """Replaces tensors in a checkpoint's pickle; None removes one."""
    changed = {**read_weights(directory), **changes}
    write_weights(directory, {name: tensor for name, tensor in changed.items() if tensor is not None}, "bin")


@pytest.mark.parametrize("form", ["bin", "sharded_bin", "safetensors", "sharded_safetensors"])
@pytest.mark.parametrize(
    "variant", [{}, {"model_type": "llama", "num_kv_heads": 2}, {"extra_inv_freq": True, "rope_ratio": 32}]
)
def test_every_form_gives_the_reference_weights(tmp_path: Path, form: str, variant: dict[str, Any]) -> None:
    directory = make_checkpoint(tmp_path, **{**TINY, **variant}, form=form)
    loaded, reference = load(directory), reference_model(directory).state_dict()
    assert loaded.keys() == reference.keys()
    assert all(torch.equal(loaded[name], reference[name]) for name in reference)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("norm_head", [1, True, 0, None])
def test_norm_head_is_folded_in_the_type_of_the_file(
    tmp_path: Path, norm_head: int | bool | None, dtype: torch.dtype
) -> None:
    directory = make_checkpoint(tmp_path, **TINY, norm_head=norm_head, dtype=dtype)
    stored = read_weights(directory)["lm_head.weight"]
    expected = functional.normalize(stored) if norm_head else stored
    assert torch.equal(load(directory)["lm_head.weight"], expected.float())
    assert torch.equal(load(directory, dtype)["lm_head.weight"], expected)


def test_fold_changes_the_likeliest_token(tmp_path: Path) -> None:
    head = read_weights(make_checkpoint(tmp_path, **TINY))["lm_head.weight"].float()
    hidden = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    plain, folded = hidden @ head.T, hidden @ fold_norm_head(head).T
    assert (plain.argmax(-1) != folded.argmax(-1)).float().mean() > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fold_leaves_rows_of_zeros_alone(dtype: torch.dtype) -> None:
    assert torch.equal(fold_norm_head(torch.zeros(2, 8, dtype=dtype)), torch.zeros(2, 8, dtype=dtype))


@pytest.mark.parametrize("model_type", ["index", "llama"])
@pytest.mark.parametrize("norm_head", [0, 1])
@pytest.mark.parametrize("stored", [False, True])
def test_tied_head(tmp_path: Path, model_type: str, norm_head: int, stored: bool) -> None:
    directory = make_checkpoint(tmp_path, **TINY, model_type=model_type, norm_head=norm_head, tie_word_embeddings=True)
    if stored:
        rewrite(directory, {"lm_head.weight": torch.zeros(500, 32)})
    config = read_config(directory)
    module = LlamaWeights(config)
    load_weights(directory, config, module, "cpu", torch.float32)
    assert "lm_head.weight" not in expected_tensors(config)
    assert (module.lm_head.weight is module.model.embed_tokens.weight) == (not config.norm_head)
    if config.norm_head:
        embedding = read_weights(directory)["model.embed_tokens.weight"]
        assert torch.equal(module.lm_head.weight, functional.normalize(embedding).float())


def test_weights_do_not_change_with_the_file(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, **TINY)
    loaded = load(directory, torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in loaded.items()}
    with (directory / "pytorch_model.bin").open("r+b") as file:
        file.write(b"\xff" * (directory / "pytorch_model.bin").stat().st_size)
    assert all(torch.equal(loaded[name], before[name]) for name in before)


def test_transposed_tensors_of_a_pickle_are_made_contiguous(tmp_path: Path) -> None:
    """Kernels take rows of weights to be contiguous."""
    directory = make_checkpoint(tmp_path, **TINY)
    wanted = load(directory, torch.float32)
    rewrite(directory, {name: value.t().contiguous().t() for name, value in wanted.items() if value.dim() == 2})
    found = load(directory, torch.float32)
    assert all(value.is_contiguous() for value in found.values())
    assert torch.equal(found["model.embed_tokens.weight"], wanted["model.embed_tokens.weight"])


def test_expected_tensors_are_those_of_index() -> None:
    config = ModelConfig(36, 2048, 5888, 16, 16, 128, 65029, 4096, norm_head=True)
    tensors = expected_tensors(config)
    assert len(tensors) == 327
    assert sum(torch.Size(shape).numel() for shape in tensors.values()) == 2_172_819_456
    assert tensors.keys() == LlamaWeights(config).state_dict().keys()


def test_all_tensors_that_do_not_fit_are_named_at_once(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, **TINY)
    changes: dict[str, Tensor | None] = {
        "model.norm.weight": None,
        "lm_head.weight": torch.zeros(500, 31),
        "model.embed_tokens.weight": torch.zeros(500, 32, dtype=torch.int8),
        "model.layers.0.self_attn.q_proj.bias": torch.zeros(32),
    }
    rewrite(directory, changes)
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    message = str(caught.value)
    for problem in (
        "in 4 tensors",
        "model.norm.weight [32] is missing",
        "lm_head.weight is [500, 31] and should be [500, 32]",
        "model.embed_tokens.weight is int8 and should be one of bfloat16, float16, float32",
        "model.layers.0.self_attn.q_proj.bias is not expected",
    ):
        assert problem in message


def test_many_faults_are_counted(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, **TINY)
    config = (directory / "config.json").read_text()
    (directory / "config.json").write_text(config.replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(CheckpointError, match=r"in 21 tensors: .*; and 11 more") as caught:
        load(directory)
    assert str(caught.value).count("should be") == 10


def test_no_weight_is_loaded_if_any_tensor_is_wrong(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, **TINY)
    rewrite(directory, {"lm_head.weight": None})
    config = read_config(directory)
    module = LlamaWeights(config)
    with pytest.raises(CheckpointError):
        load_weights(directory, config, module, "cpu", torch.float32)
    assert all(parameter.is_meta for parameter in module.parameters())


class _Harmful:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "checkpoint", **TINY)
    torch.save({"lm_head.weight": _Harmful(tmp_path / "trace")}, directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: asks for \w+\.mkdir; nothing of it was run"):
        load(directory)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(2)], "holds a list and should hold tensors by name"),
        ({"state_dict": {"lm_head.weight": torch.zeros(2)}}, "'state_dict' is a dict and should be a tensor"),
        ({7: torch.zeros(2)}, "7 is a Tensor"),
    ],
)
def test_pickle_with_something_else(tmp_path: Path, content: object, reason: str) -> None:
    directory = make_checkpoint(tmp_path, **TINY)
    torch.save(content, directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=reason):
        load(directory)


@pytest.mark.parametrize("form", ["bin", "sharded_bin", "safetensors", "sharded_safetensors"])
@pytest.mark.parametrize("fault", ["truncated", "empty", "garbage", "pointer", "absent"])
def test_broken_files_are_named(tmp_path: Path, form: str, fault: str) -> None:
    directory = make_checkpoint(tmp_path, **TINY, form=form)
    path = max(file for file in directory.iterdir() if file.suffix in (".bin", ".safetensors"))
    content = path.read_bytes()
    if fault == "absent":
        path.unlink()
    else:
        broken = {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"no such thing" * 99}
        path.write_bytes(broken.get(fault, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"))
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    assert str(directory) in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("git lfs pull" in str(caught.value)) == (fault == "pointer")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 10_000,
        "{}",
        "[]",
        '{"weight_map": {}}',
        '{"weight_map": {"a": ["b.bin"]}}',
        '{"weight_map": {"a": 1, "b": "c"}}',
    ],
    ids=["empty", "nested", "no-map", "list", "no-files", "list-of-files", "number"],
)
def test_broken_index_is_named(tmp_path: Path, content: str) -> None:
    directory = make_checkpoint(tmp_path, **TINY, form="sharded_bin")
    index = directory / "pytorch_model.bin.index.json"
    index.write_text(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin\.index\.json: (is no|holds a list|names)"):
        load(directory)


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "a/b.bin", "a\0b.bin", "\ud800.bin", 1, None])
@pytest.mark.parametrize("form", ["sharded_bin", "sharded_safetensors"])
def test_a_shard_that_is_no_file_beside_the_index(tmp_path: Path, form: str, name: object) -> None:
    directory = make_checkpoint(tmp_path, **TINY, form=form)
    (index,) = directory.glob("*.index.json")
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    assert str(caught.value) == f"{index}: names {[name]!r}; shards must be files beside the index"


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, **TINY)
    write_weights(directory, read_weights(directory), "safetensors")
    (directory / "pytorch_model.bin").write_bytes(b"broken")
    load(directory)


def test_index_of_shards_is_followed(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, **TINY, form="sharded_safetensors")
    shards = set(json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"].values())
    (directory / "model-00009-of-00009.safetensors").write_bytes(b"of no index, so never opened")
    assert len(shards) == 2
    load(directory)
