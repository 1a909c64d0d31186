"""The fingerprint: the same for what gives the same answers, another for all that may give another one."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import torch
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc import __version__
from index_grpc.loading import load_runner
from index_grpc.model.checkpoint import load_weights
from index_grpc.model.config import read_config
from index_grpc.model.weight_samples import MOST_NUMBERS, places, sample
from index_grpc.model.weights import LlamaWeights
from index_grpc.native.library import compiler
from tests.checkpoints import make_checkpoint, make_tokenizer, read_weights, write_weights
from tests.conftest import serving, settings
from tests.engine.kernels import KERNELS, NATIVE, PYTORCH, compute_with
from tests.server.asking import seeded

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2}
WITH_KERNELS = pytest.mark.skipif(not NATIVE, reason="no native kernels were built here")


def checkpoint_at(directory: Path, **changes: object) -> Path:
    return make_checkpoint(directory, **SMALL | changes)  # type: ignore[arg-type]


def fingerprint(checkpoint: Path, **changes: object) -> str:
    return load_runner(settings(checkpoint, **changes)).model.fingerprint


def digest(fingerprint: str) -> str:
    return fingerprint.rpartition("-")[2]


async def test_every_call_tells_the_same_fingerprint(checkpoint: Path) -> None:
    async with serving(settings(checkpoint)) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stub, request = ChatServiceStub(channel), seeded("Hi", 1, max_tokens=3)
        told = (await stub.GetModel(pb.GetModelRequest())).fingerprint
        assert (await stub.Chat(request)).fingerprint == told
        starts = [message.start async for message in stub.ChatStream(request)]
    assert starts[0].fingerprint == told
    assert re.fullmatch(rf"{re.escape(__version__)}-cpu-[a-z0-9_.+-]+-float32-[0-9a-f]{{8}}", told)
    assert f"-torch{torch.__version__}_" in told
    assert told == fingerprint(checkpoint)


@pytest.mark.parametrize("kernels", KERNELS)
def test_it_names_what_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    compute_with(monkeypatch, kernels)
    named = fingerprint(checkpoint_at(tmp_path)).removeprefix(f"{__version__}-cpu-")
    if kernels == PYTORCH:
        assert re.match(r"pytorch_\w+_linear_1_threads_on_\w+-torch", named)
    else:
        assert re.match(rf"{kernels.replace(', ', '_')}_(gcc|clang)[0-9.]+-torch", named)


def test_files_of_another_form_hold_the_same_checkpoint(tmp_path: Path) -> None:
    forms = ("bin", "sharded_bin", "safetensors", "sharded_safetensors")
    assert len({fingerprint(checkpoint_at(tmp_path / form, form=form)) for form in forms}) == 1


def retrained(directory: Path) -> None:
    """Changes one of the smallest tensors by little."""
    tensors = read_weights(directory)
    tensors["model.layers.1.self_attn.v_proj.weight"] *= 1.01
    write_weights(directory, tensors, "bin")


def other_dtype(directory: Path) -> None:
    write_weights(directory, {name: tensor.float() for name, tensor in read_weights(directory).items()}, "bin")


def other_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.model").write_bytes(make_tokenizer(dummy_prefix=True))


def other_angles(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"rope_ratio": 2.0}))


@pytest.mark.parametrize("change", [retrained, other_dtype, other_tokenizer, other_angles])
def test_another_checkpoint_of_the_same_shape_has_another_digest(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    before = fingerprint(checkpoint_at(tmp_path))
    change(tmp_path)
    after = fingerprint(tmp_path)
    assert digest(after) != digest(before)
    assert after.rpartition("-")[0] == before.rpartition("-")[0]


@WITH_KERNELS
def test_the_digest_does_not_depend_on_what_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [fingerprint(checkpoint_at(tmp_path)), fingerprint(tmp_path, quantize="int8")]
    found.append(fingerprint(tmp_path, dtype="bfloat16"))
    compute_with(monkeypatch, PYTORCH)
    found.append(fingerprint(tmp_path))
    assert len(set(found)) == len(found)
    assert len(set(map(digest, found))) == 1
    assert "-float32-int8-" in found[1]
    assert "-bfloat16-" in found[2]


def test_the_digest_does_not_depend_on_the_dtype_that_weights_are_loaded_in(tmp_path: Path) -> None:
    def loaded(dtype: torch.dtype) -> str:
        return load_weights(tmp_path, config, LlamaWeights(config), "cpu", dtype)

    config = read_config(checkpoint_at(tmp_path))
    before = loaded(torch.float32)
    assert loaded(torch.bfloat16) == before
    retrained(tmp_path)
    assert loaded(torch.float32) != before


@WITH_KERNELS
@pytest.mark.parametrize("change", [{"threads": 2}, {"prefix_reuse": False}, {"max_sequences": 2}])
def test_settings_that_change_no_answer_change_no_fingerprint(tmp_path: Path, change: dict[str, object]) -> None:
    assert fingerprint(checkpoint_at(tmp_path), **change) == fingerprint(tmp_path)


def test_threads_change_the_sums_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, PYTORCH)
    try:
        assert fingerprint(checkpoint_at(tmp_path), threads=2) != fingerprint(tmp_path, threads=1)
    finally:
        torch.set_num_threads(1)


def test_a_sample_is_spread_over_rows_and_columns() -> None:
    chosen = places(1000 * 64)
    assert len(chosen) > MOST_NUMBERS * 0.9
    assert len(set((chosen // 64).tolist())) > 200
    assert len(set((chosen % 64).tolist())) == 64
    assert int(chosen[-1]) == 1000 * 64 - 1
    assert places(5).tolist() == [0, 1, 2, 3, 4]


def test_a_sample_does_not_depend_on_how_a_tensor_lies_in_memory() -> None:
    tensor = torch.arange(48_000, dtype=torch.float32).view(200, 240)
    assert sample(tensor.t().contiguous().t()) == sample(tensor)
    assert sample(tensor.half().float()) == sample(tensor.half())


@WITH_KERNELS
def test_a_library_names_its_compiler() -> None:
    for kernels in NATIVE.values():
        assert re.fullmatch(r"(gcc|clang)[0-9.]+( (gcc|clang)[0-9.]+)*", compiler(kernels.library))
