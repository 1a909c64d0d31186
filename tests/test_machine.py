"""The memory, cores and files that a container allows, and the processor's name."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from index_grpc.machine import available_bytes, num_cores, processor_name
from tests.process import INDEX_GRPC

MIB = 2**20


def test_a_processor_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.machine.CPU_INFO", tmp_path / "cpuinfo")
    assert processor_name() == platform.machine()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\n\nmodel name\t: other\n")
    assert processor_name() == "AMD EPYC 7B13"


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


def member(tmp_path: Path, *lines: str) -> Path:
    """A file that says, as /proc/self/cgroup does, which groups a process is in."""
    path = tmp_path / "self"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def limited_memory(folder: Path, left: int) -> Path:
    return write(folder, memory__max=str(left + MIB), memory__current=str(MIB), memory__stat="file 0")


@pytest.mark.parametrize("tightest", ["", "system.slice", "system.slice/index.service"])
def test_the_tightest_memory_limit_of_a_process_counts(tmp_path: Path, tightest: str) -> None:
    groups, own = tmp_path / "groups", member(tmp_path, "0::/system.slice/index.service")
    for name in ("", "system.slice", "system.slice/index.service", "system.slice/other.service"):
        limited_memory(groups / name, 100 * MIB if name == tightest else 200 * MIB)
    limited_memory(groups / "system.slice" / "other.service", MIB)
    assert available_bytes(groups, own) == 100 * MIB


def test_a_process_in_a_group_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = member(tmp_path, "5:memory:/docker/1", "4:cpu,cpuacct:/docker/2", "1:name=systemd:/x:y", "0::/")
    memory, cpu = tmp_path / "memory", tmp_path / "cpu"
    unlimited, limited = str(2**63 - 4096), str(100 * MIB)
    for folder, limit in ((memory, unlimited), (memory / "docker" / "1", limited), (memory / "docker" / "2", "4096")):
        write(folder, memory__limit_in_bytes=limit, memory__usage_in_bytes="0", memory__stat="total_cache 0")
    assert available_bytes(tmp_path, own) == 100 * MIB
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    write(cpu, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert num_cores(tmp_path, own) == 8
    write(cpu / "docker" / "2", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert num_cores(tmp_path, own) == 3
    write(cpu / "docker", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert num_cores(tmp_path, own) == 1


@pytest.mark.parametrize("path", ["/docker/1/not/mounted", "/../../elsewhere", "/"])
def test_a_containers_own_group_may_be_mounted_as_the_root(tmp_path: Path, path: str) -> None:
    """The path of a process's group is the host's then."""
    own = member(tmp_path, f"0::{path}")
    limited_memory(tmp_path / "elsewhere", MIB)
    assert available_bytes(limited_memory(tmp_path / "a" / "b", 100 * MIB), own) == 100 * MIB
    assert available_bytes(tmp_path / "a" / "b", tmp_path / "no file") == 100 * MIB


def test_a_list_of_groups_in_another_form_is_ignored(tmp_path: Path) -> None:
    groups = limited_memory(tmp_path / "groups", 100 * MIB)
    assert available_bytes(groups, member(tmp_path, "garbage")) == 100 * MIB


def test_the_least_quota_of_a_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    groups, own = tmp_path / "groups", member(tmp_path, "0::/a/b")
    write(groups / "a" / "b", cpu__max="600000 100000")
    assert num_cores(groups, own) == 6
    write(groups / "a", cpu__max="400000 100000")
    assert num_cores(groups, own) == 4
    write(groups / "c", cpu__max="100000 100000")
    assert num_cores(groups, own) == 4


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


def test_a_server_that_may_open_too_few_files_does_not_start() -> None:
    command = ["prlimit", "--nofile=300", INDEX_GRPC, "serve", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    problem = "error: this process may open only 300 files, and each connection is one; allow at least 320"
    assert (done.returncode, problem in done.stderr) == (1, True), done.stderr
