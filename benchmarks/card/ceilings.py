"""The most that the GPU can do: how fast it copies memory and multiplies matrices."""

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("torch", "triton", "transformers")
NUM_WARMUPS, NUM_ROUNDS = 5, 30


@dataclass(frozen=True)
class Ceilings:
    """The GPU's name, and the most that it can do."""

    card: str
    """Name, memory and driver, in one line."""
    versions: str
    copy_bytes_per_s: float
    """Counts both the bytes read and the bytes written."""
    flops_per_s: float

    def __str__(self) -> str:
        copied, multiplied = self.copy_bytes_per_s / 1e9, self.flops_per_s / 1e12
        return f"{self.card} copies {copied:.0f} GB/s and multiplies {multiplied:.3g} TFLOP/s"


def measure(device: torch.device, copied_bytes: int, side: int) -> Ceilings:
    """Copies `copied_bytes` within the device's memory, and multiplies square matrices of random bfloat16."""
    copy_rate, matrix_rate = _copy_rate(device, copied_bytes), _matrix_rate(device, side)
    torch.cuda.empty_cache()  # frees the memory for other processes
    return Ceilings(describe(device), versions(), copy_rate, matrix_rate)


def median_seconds(action: Callable[[], object], device: torch.device) -> float:
    """The median duration of the action, by the device's own clock if it has one."""
    timed = _seconds_on_card if device.type == "cuda" else seconds
    for _ in range(NUM_WARMUPS):
        action()
    return statistics.median(timed(action) for _ in range(NUM_ROUNDS))


def describe(device: torch.device) -> str:
    """Name, memory and driver."""
    if device.type != "cuda":
        return platform.processor() or platform.machine()
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB, driver {_driver()})"


def versions() -> str:
    """The versions of Python and of the libraries that compute."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in PACKAGES)])


def _copy_rate(device: torch.device, copied_bytes: int) -> float:
    source = torch.empty(copied_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * copied_bytes / median_seconds(lambda: target.copy_(source), device)


def _matrix_rate(device: torch.device, side: int) -> float:
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: torch.mm(left, right), device)


def seconds(action: Callable[[], object]) -> float:
    """The duration of the action by the host's clock."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _seconds_on_card(action: Callable[[], object]) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    action()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / 1e3


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.split("\n", 1)[0].strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
