"""The memory, cores and files that a container allows."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from index_grpc.machine import available_bytes, num_cores

MIB = 2**20


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_a_containers_memory_limit_is_used(tmp_path: Path) -> None:
    stat = f"anon 1\nfile {35 * MIB}\nshmem {5 * MIB}\n"
    write(tmp_path, memory__max=f"{100 * MIB}\n", memory__current=f"{50 * MIB}\n", memory__stat=stat)
    assert available_bytes(tmp_path) == 80 * MIB


def test_the_limit_of_cgroups_version_1_is_used(tmp_path: Path) -> None:
    write(
        tmp_path / "memory",
        memory__limit_in_bytes=str(100 * MIB),
        memory__usage_in_bytes=str(50 * MIB),
        memory__stat=f"total_cache {10 * MIB}",
    )
    assert available_bytes(tmp_path) == 60 * MIB


@pytest.mark.parametrize("limit", ["max", str(2**62)])
def test_without_a_limit_the_machines_memory_is_used(tmp_path: Path, limit: str) -> None:
    write(tmp_path, memory__max=limit, memory__current="1", memory__stat="file 0")
    assert 0 < available_bytes(tmp_path) <= psutil.virtual_memory().total
    assert available_bytes(tmp_path / "nowhere") > 0


def test_more_memory_used_than_allowed_means_that_none_is_available(tmp_path: Path) -> None:
    write(tmp_path, memory__max="100", memory__current="200", memory__stat="file 0")
    assert available_bytes(tmp_path) == 0


def test_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert num_cores(tmp_path) == 6
    assert num_cores(write(tmp_path, cpu__max="max 100000")) == 6
    assert num_cores(write(tmp_path, cpu__max="350000 100000")) == 3
    assert num_cores(write(tmp_path, cpu__max="50000 100000")) == 1


def test_the_limit_of_open_files_is_raised_to_the_hard_limit() -> None:
    code = """
import resource
from index_grpc.machine import allow_open_files
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
allow_open_files()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
