"""The native kernels when the system has no more memory; each test runs in a separate process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint
from tests.engine.kernels import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="no native kernels were built here")

THREADS_WITHOUT_ROOM = """
import resource
import psutil
from index_grpc.model.config import ModelConfig
from index_grpc.model.native import NativeLlama, find_kernels

kernels, room = find_kernels(), psutil.Process().memory_info().vms + 2**28
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    NativeLlama(ModelConfig(1, 32, 32, 1, 1, 32, 100, 32), kernels, num_threads=1000)
except MemoryError:
    print("refused")
"""


def test_threads_that_cannot_be_started_raise_memory_error() -> None:
    found = subprocess.run([sys.executable, "-c", THREADS_WITHOUT_ROOM], capture_output=True, text=True, check=True)
    assert found.stdout == "refused\n"


NORM_WITHOUT_ROOM = """
import resource
import psutil
import torch
from index_grpc.model.config import ModelConfig
from index_grpc.model.native import NativeLlama, find_kernels
from index_grpc.native import library

model = NativeLlama(ModelConfig(1, 32, 32, 1, 1, 32, 100, 32), find_kernels(), num_threads=1)
weight, room = torch.ones(2**26), psutil.Process().memory_info().vms + 2**24
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    model.set_norm(library.MODEL, 0, weight)
except MemoryError:
    print("refused")
"""


def test_a_norm_without_memory_raises_memory_error() -> None:
    found = subprocess.run([sys.executable, "-c", NORM_WITHOUT_ROOM], capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("refused\n", 0), found.stderr


STEP_WITHOUT_ROOM = """
import resource
import sys
from pathlib import Path
import psutil
import torch
from index_grpc.model.config import read_config
from index_grpc.model.native import find_kernels
from index_grpc.model.native_weights import load_native

directory = Path(sys.argv[1])
config = read_config(directory)
num_blocks = config.context_length // 64
model = load_native(directory, config, find_kernels(), num_threads=4, as_int8=False)
cache, ids, sampled = model.new_cache(), [5] * 64, range(64)
few, many = cache.place([0], 0, 64), cache.place([0] * num_blocks, 64 * (num_blocks - 1), 64)
wanted = model.forward(ids, [few], sampled).clone()
for _ in range(20):
    _, most = limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**24, most))
    try:
        model.forward(ids, [many], sampled)
    except MemoryError:
        print("refused")
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert torch.equal(model.forward(ids, [few], sampled), wanted)
"""
"""Computes the end of a long context in one block; each thread needs 64 MiB for its scores."""


def test_a_thread_without_memory_fails_only_its_step(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "long", hidden_size=64, num_layers=1, context_length=2**18)
    command = [sys.executable, "-c", STEP_WITHOUT_ROOM, str(directory)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("refused\n" * 20, 0), found.stderr
