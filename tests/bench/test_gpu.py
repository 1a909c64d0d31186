"""`benchmarks/gpu.py` from start to end, with a small model on the processor."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

ENGINE = {("engine", 1), ("engine", 4), ("engine, long contexts", 4)}
WIRE = {("engine, callers ask again", 4), ("over gRPC, callers ask again", 4)}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def section() -> dict[str, Any]:
    """The results; the peer is given too little time even to start."""
    limits = ["--seconds", "0.1", "--rounds", "1", "--peers", "static", "--peer-seconds", "0.1"]
    done = run("gpu.py", "--smoke", *limits)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not [note for note in found["notes"] if "failed" in note], done.stderr
    return found


@pytest.fixture(scope="module")
def rows(section: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows by name and level."""
    return {(row["name"], row["at_once"]): row for row in section["data"]["rows"]}


def test_every_part_is_in_the_table(section: dict[str, Any], rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    assert rows.keys() >= ENGINE | WIRE | {("engine, prompts alone", 2)}
    assert [row[0] for row in section["rows"]] == [name for name, _ in rows]
    assert all(row["tokens_per_s"] > 0 for row in rows.values())


def test_steps_are_compared_with_the_devices_limits(rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    for key in ENGINE:
        assert rows[key]["step_s"] > 0
        assert rows[key]["share"] > 0


def test_the_memory_of_a_small_gpu_is_measured(rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    assert ("engine, a small card's room", 6) in rows


def test_a_peer_that_exceeds_its_time_is_noted(section: dict[str, Any]) -> None:
    assert any(note.startswith("static is absent: static said nothing for") for note in section["notes"])


def test_there_are_no_goals_on_the_processor(section: dict[str, Any]) -> None:
    assert section["goals"] == []
    assert "torch" in section["data"]["machine"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_line_says_so() -> None:
    done = run("gpu.py")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "sees no CUDA device here" in done.stderr


def test_the_page_says_what_is_not_measured_yet() -> None:
    done = run("-c", "import bench; print(bench.page({}))")
    assert "Not measured yet. It needs one: `python benchmarks/gpu.py`" in done.stdout, done.stderr
