"""The errors of loading with too little memory, and the sizes that it chooses."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from index_grpc.errors import CheckpointError, StartupError
from index_grpc.loading import load_runner
from index_grpc.loading.sizing import in_units, num_cache_blocks
from index_grpc.model.config import ModelConfig
from tests.checkpoints import make_checkpoint
from tests.conftest import settings

GIB = 2**30


@dataclass
class Model:
    """What sizing needs of a model: a context has 4096 positions of 256 KiB each, 1 GiB."""

    device: torch.device
    config = ModelConfig(32, 2048, 64, 16, 16, 128, 100, 4096)
    dtype = torch.bfloat16
    block_tokens = 64


CPU, CUDA = Model(torch.device("cpu")), Model(torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (18_874_368, "18.0 MiB"), (1.5 * 2**40, "1536.0 GiB")],
)
def test_a_size_keeps_its_digits(num_bytes: float, words: str) -> None:
    assert in_units(num_bytes) == words


@pytest.mark.parametrize(
    ("model", "free", "taken", "changes", "told"),
    [
        (
            CPU, 1.2, 0, {},
            "1.2 GiB are free on cpu beside the weights; --kv-memory-fraction 0.8 of them may hold keys and values; "
            "one conversation of 4096 tokens needs 1.0 GiB for them; free some memory, raise the fraction or use "
            "another device",
        ),
        (
            CPU, 0.5, 0, {"kv_memory_fraction": 0.5},
            "512.0 MiB are free on cpu beside the weights; --kv-memory-fraction 0.5 of them may hold keys and values; "
            "one conversation of 4096 tokens needs 1.0 GiB for them; free some memory or use another device",
        ),
        (
            CUDA, 2, 1.25, {},
            "2.0 GiB are free on cuda:0 beside the weights, of which steps take 1.2 GiB; --kv-memory-fraction 0.9 of "
            "the rest may hold keys and values; one conversation of 4096 tokens needs 1.0 GiB for them; free some "
            "memory, allow fewer --max-sequences or use another device",
        ),
        (
            CUDA, 80, 1, {"kv_memory_bytes": 1000},
            "--kv-memory-bytes 1000 is too little: one conversation of 4096 tokens needs 1073741824 bytes for its keys "
            "and values; allow as many",
        ),
        (
            CPU, 20, 0, {"kv_memory_bytes": 24 * GIB},
            "--kv-memory-bytes 25769803776 is too much: 21474836480 are left on cpu by the weights; allow fewer or "
            "free some memory",
        ),
        (
            CUDA, 24, 2, {"kv_memory_bytes": 23 * GIB},
            "--kv-memory-bytes 24696061952 is too much: 23622320128 are left on cuda:0 by weights and steps; allow "
            "fewer or free some memory",
        ),
    ],
)  # fmt: skip
def test_an_impossible_size_of_the_cache_is_refused(
    monkeypatch: pytest.MonkeyPatch, model: Model, free: float, taken: float, changes: dict[str, float], told: str
) -> None:
    monkeypatch.setattr("index_grpc.loading.sizing.free_bytes", lambda device: int(free * GIB))
    with pytest.raises(StartupError) as caught:
        num_cache_blocks(model, settings("any", **changes), int(taken * GIB))  # type: ignore[arg-type]
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("device", "changes", "remedy"),
    [
        ("cpu", {}, "try fewer --threads, --quantize int8 or another --device"),
        ("cuda", {}, "try less of --kv-memory-fraction, fewer --max-sequences or another --device"),
        ("cuda", {"kv_memory_bytes": 9}, "try less of --kv-memory-bytes, fewer --max-sequences or another --device"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("no"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    ],
    ids=["Python", "PyTorch", "Triton", "processor"],
)
def test_running_out_of_memory_is_one_sentence_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, device: str, changes: dict[str, int], remedy: str, error: Exception
) -> None:
    fail_with(error, monkeypatch)
    monkeypatch.setattr("index_grpc.loading.choose_device", torch.device)
    monkeypatch.setattr("index_grpc.loading.device.choose_device", torch.device)
    with pytest.raises(StartupError) as caught:
        load_runner(settings("demo", device=device, **changes))
    assert str(caught.value) == f"not enough memory or threads to load demo; free some memory, or {remedy}"


def test_other_exceptions_are_not_reported_as_too_little_memory(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    fail_with(RuntimeError("a bug"), monkeypatch)
    with pytest.raises(RuntimeError, match="a bug"):
        load_runner(settings(checkpoint))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_config_that_does_not_fit_is_refused_before_memory_is_allocated(tmp_path: Path, dtype: str) -> None:
    directory = make_checkpoint(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"hidden_size": 2**24, "intermediate_size": 2**24}))
    with pytest.raises(CheckpointError, match=r"weights do not fit config\.json in \d+ tensors"):
        load_runner(settings(directory, dtype=dtype))


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes loading fail on either device."""

    def fail(*_: object) -> None:
        raise error

    for load in ("load_on_cpu", "load_on_cuda"):
        monkeypatch.setattr(f"index_grpc.loading.{load}", fail)
