"""What cannot be computed on CUDA is refused before anything is loaded, in a sentence that says what to do."""

import dataclasses

import pytest
import torch

from index_grpc.errors import StartupError
from index_grpc.loading.cuda import refuse_what_cuda_cannot
from index_grpc.model.config import ModelConfig

CONFIG = ModelConfig(1, 192, 64, 2, 2, 96, 100, 512)
FITTING = dataclasses.replace(CONFIG, hidden_size=256, head_dim=128)
CUDA = torch.device("cuda:0")


def test_heads_of_an_odd_size() -> None:
    with pytest.raises(StartupError, match=r"heads are of size 96; .* from 16 on can be computed; use --device cpu"):
        refuse_what_cuda_cannot(CONFIG, CUDA, "none")


def test_eight_bits() -> None:
    with pytest.raises(StartupError, match=r"--quantize int8 is not possible on cuda:0; leave it out"):
        refuse_what_cuda_cannot(FITTING, CUDA, "int8")


def test_a_compiler_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(StartupError, match="install gcc or clang, or set CC"):
        refuse_what_cuda_cannot(FITTING, CUDA, "none")
    monkeypatch.setenv("CC", "cc")
    refuse_what_cuda_cannot(FITTING, CUDA, "none")
