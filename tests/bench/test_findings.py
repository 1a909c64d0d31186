"""Where `benchmarks/bench.py` keeps its results."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("newer", "held", "keys"),
    [
        (True, False, "wire, steps"),
        (True, True, "wire with AVX2, steps"),
        (False, False, "wire with AVX2, steps"),
        (False, True, "wire with AVX2, steps"),
    ],
)
def test_results_that_depend_on_the_instruction_set_have_a_separate_key(newer: bool, held: bool, keys: str) -> None:
    told = f"bench.has_more_than_avx2, bench.held_to_avx2 = (lambda: {newer}), (lambda: {held})"
    code = f"import bench; {told}; print(', '.join(map(bench._key, ('wire', 'steps'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == keys


def test_avx2_is_refused_for_experiments_that_do_not_depend_on_it() -> None:
    command = [sys.executable, "bench.py", "--avx2", "wire", "steps"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--avx2 is for alternatives" in done.stderr
    assert done.stderr.strip().endswith("not for steps")


def test_only_results_that_name_their_machine_may_be_read_from_a_file() -> None:
    command = [sys.executable, "bench.py", "wire", "--found", "findings.txt"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--found goes with gpu" in done.stderr
