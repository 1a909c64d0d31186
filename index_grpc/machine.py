"""What of this machine is ours: in a container less than there is."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
LAST_STANDARD_STREAM = 2
RESERVED_FILES = 256
MOST_CONNECTIONS = 2**20
"""However many the system would allow."""


def available_bytes(cgroups: Path = CGROUPS) -> int:
    """Memory that can still be taken: of the machine's, or of the container's limit if that leaves less."""
    available: int = psutil.virtual_memory().available
    layouts = (
        (cgroups, "memory.max", "memory.current", "file", "shmem"),
        (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"),
    )
    for folder, limit, used, files, shared in layouts:
        left = _left(folder / limit, folder / used, folder / "memory.stat", files, shared)
        if left is not None:
            available = min(available, left)
    return max(0, available)


def num_cores(cgroups: Path = CGROUPS) -> int:
    """Cores that this process may compute on: physical ones, as far as affinity and the container's quota allow."""
    cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or no limit: "max 100000"
        return cores


def open_standard_streams() -> None:
    """Opens those of the files 0 to 2 that are closed, on nothing: else sockets would get their numbers.

    What takes such a number for a standard stream would write into a socket, or, as libuv does, refuse to close it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD_STREAM:
        os.set_inheritable(number, True)
    os.close(number)


def allow_open_files() -> None:
    """Raises the limit of open files, of which each connection is one, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # where even the hard limit counts as too high; then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def patient_threads() -> Iterator[None]:
    """Threads that are started inside, and those that they start, take no core from one that computes.

    gRPC's own threads wake several times for each message, and would each time take one. So they come to it some
    milliseconds later, where all cores are busy, and find more to do at once.
    """
    if _policy() != os.SCHED_OTHER:  # somebody has thought of this already
        yield
        return
    _schedule_as(os.SCHED_BATCH)
    try:
        yield
    finally:
        _schedule_as(os.SCHED_OTHER)


def most_connections() -> int:
    """How many files may be open for callers, so that enough are left to start an engine or read a certificate with."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(1, allowed - RESERVED_FILES))


def _policy() -> int | None:
    """The calling thread's; none where a sandbox does not tell."""
    try:
        return os.sched_getscheduler(0)
    except OSError:
        return None


def _schedule_as(policy: int) -> None:
    """For the calling thread; threads inherit it from the one that starts them."""
    with suppress(OSError):  # a sandbox may not know of it; then nothing changes
        os.sched_setscheduler(0, policy, os.sched_param(0))


def _left(limit: Path, used: Path, stat: Path, files: str, shared: str) -> int | None:
    """What a limit leaves. Copies of files in memory make room when it is needed; files that live there do not."""
    try:
        counts = dict(line.split() for line in stat.read_text().splitlines())
        reclaimable = int(counts.get(files, "0")) - int(counts.get(shared, "0"))
        return int(limit.read_text()) - int(used.read_text()) + reclaimable
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return None
