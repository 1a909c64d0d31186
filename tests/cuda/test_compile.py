"""Every kernel compiles for GPUs that this machine does not have, as steps of the real model launch it, and fits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL_CARD, HOPPER = 99 * 1024, 227 * 1024
"""Bytes of shared memory for the programs of an SM; an A100, with 163 KB, is treated like a small GPU."""
MOST_LOCAL = 512
"""Bytes of local memory for a thread: the driver takes as much for each of the 200,000 threads of a large GPU."""
PROMPTS = {"_normed", "_linear", "_keep", "_prefill_attention", "_candidates", "_draw"}
ANSWERS = {"_embed", "_normed", "linear_few", "_decode_attention", "_candidates", "_draw"}
TARGETS = [
    ("80", "bfloat16", SMALL_CARD, "1,64", "1024", ANSWERS | PROMPTS),
    ("90", "bfloat16", HOPPER, "1,64,256", "1024", ANSWERS | PROMPTS),
    ("100", "bfloat16", HOPPER, "64", "", {"_linear", "_decode_attention"}),
    ("80", "float32", SMALL_CARD, "1", "1024", ANSWERS | PROMPTS),
]
"""The sizes of steps are chosen so that the largest tiles occur."""


@pytest.fixture(scope="module")
def compilers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[subprocess.Popen[str]]]:
    """A compiling process for each target, all at once, with an empty cache."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    processes = []
    for *target, _ in TARGETS:
        environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))
        command = [sys.executable, "-m", "tests.cuda.compiling", *map(str, target)]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    yield processes
    for process in processes:
        process.kill()


@pytest.mark.parametrize("number", range(len(TARGETS)), ids=["80", "90", "100", "float32"])
def test_kernels_compile_and_fit(compilers: list[subprocess.Popen[str]], number: int) -> None:
    told, complaints = compilers[number].communicate(timeout=110)
    assert compilers[number].returncode == 0, complaints
    found = json.loads(told)
    *_, most_bytes, _, _, kernels = TARGETS[number]
    assert {name for name, *_ in found} >= kernels
    assert [one for one in found if one[1] > most_bytes or one[2] > MOST_LOCAL] == []
