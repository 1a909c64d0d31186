"""Models that cannot be computed on CUDA are refused before loading, with a sentence that says what to do."""

import dataclasses
from pathlib import Path

import pytest
import torch

from index_grpc.errors import StartupError
from index_grpc.loading.cuda import refuse_what_cuda_cannot
from index_grpc.model.card import Card
from index_grpc.model.config import ModelConfig

CONFIG = ModelConfig(1, 256, 64, 2, 2, 128, 100, 512)
CUDA = torch.device("cuda:0")
SMALL, LARGE = Card((8, 9), 99 * 1024), Card((9, 0), 227 * 1024)


@pytest.mark.parametrize(
    ("size", "card", "most"), [(96, LARGE, 256), (8, LARGE, 256), (512, LARGE, 256), (256, SMALL, 128)], ids=str
)
def test_heads_of_a_size_that_kernels_cannot_take(size: int, card: Card, most: int) -> None:
    problem = rf"heads are of size {size}; on cuda:0 only powers of two from 16 to {most} .*; use --device cpu"
    with pytest.raises(StartupError, match=problem):
        refuse_what_cuda_cannot(dataclasses.replace(CONFIG, head_dim=size), CUDA, card, "none")


def test_a_card_that_is_too_old() -> None:
    with pytest.raises(StartupError, match=r"cuda:0, a T4, is older than Ampere .*; use --device cpu"):
        refuse_what_cuda_cannot(CONFIG, CUDA, Card((7, 5), 64 * 1024, "a T4"), "none")


def test_eight_bits() -> None:
    with pytest.raises(StartupError, match=r"--quantize int8 is not possible on cuda:0; leave it out"):
        refuse_what_cuda_cannot(CONFIG, CUDA, LARGE, "int8")


def test_a_compiler_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(StartupError, match="install gcc or clang, or set CC"):
        refuse_what_cuda_cannot(CONFIG, CUDA, LARGE, "none")
    monkeypatch.setenv("CC", "cc")
    refuse_what_cuda_cannot(CONFIG, CUDA, LARGE, "none")


def test_headers_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setenv("CC", "cc")
    for name in ("CPATH", "C_INCLUDE_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StartupError, match=r"has no Python\.h; install them"):
        refuse_what_cuda_cannot(CONFIG, CUDA, SMALL, "none")
    monkeypatch.setenv("CPATH", "/elsewhere")
    refuse_what_cuda_cannot(CONFIG, CUDA, SMALL, "none")
