"""The processor, and the memory, cores and open files that this process may use: perhaps fewer than exist."""

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from index_grpc.errors import StartupError

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Names the control groups that this process is in."""
MEMORY_FILES = (
    ("memory.max", "memory.current", "file", "shmem"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"),
)
"""For versions 2 and 1 of control groups: the files of limit and usage, and two counts in `memory.stat`."""
CPU_INFO = Path("/proc/cpuinfo")
LAST_STANDARD_STREAM = 2
RESERVED_FILES = 256
"""Open files that connections leave to the rest of the server, to start an engine or read a certificate."""
LEAST_CONNECTIONS = 64
MOST_CONNECTIONS = 2**20
"""The most connections, even if the system allows more."""


def available_bytes(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Returns how many bytes can still be allocated: the machine's, or fewer if a control group's limit leaves less."""
    available: int = psutil.virtual_memory().available
    for group in _groups("memory", cgroups, membership):
        for limit, used, files, shared in MEMORY_FILES:
            left = _left(group / limit, group / used, group / "memory.stat", files, shared)
            if left is not None:
                available = min(available, left)
    return max(0, available)


def num_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Returns how many physical cores this process may use, within its CPU affinity and its control groups' quotas."""
    cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    for group in _groups("cpu", cgroups, membership):
        quota = _quota(group)
        if quota is not None:
            cores = min(cores, quota)
    return max(1, cores)


def processor_name() -> str:
    """Returns the processor's product name, or the architecture where the system does not tell it."""
    with suppress(OSError):
        for line in CPU_INFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def open_standard_streams() -> None:
    """Opens the null device in place of each closed standard stream, so that no socket gets the file number 0, 1 or 2.

    Code that takes such a number for a standard stream would write into the socket or, like libuv, refuse to close it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD_STREAM:
        os.set_inheritable(number, True)
    os.close(number)


def allow_open_files() -> None:
    """Raises the limit of open files as far as this process may, since each connection is an open file.

    Raises StartupError if too few are allowed even then.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems refuse even the hard limit; then the limit stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, needed = _allowed_files(), RESERVED_FILES + LEAST_CONNECTIONS
    if allowed < needed:
        remedy = f"allow at least {needed}, for example by  ulimit -n {needed}"
        raise StartupError(f"this process may open only {allowed} files, and each connection is one; {remedy}")


@contextmanager
def batch_threads() -> Iterator[None]:
    """Threads started inside, and threads that those start, are batch threads: they do not preempt computing threads.

    gRPC's own threads wake several times for each message, and would preempt a computing thread each time. As batch
    threads they run some milliseconds later where all cores are busy, and then do more at once.
    """
    if _policy() != os.SCHED_OTHER:  # set from outside, or hidden by a sandbox: leave it
        yield
        return
    _schedule_as(os.SCHED_BATCH)
    try:
        yield
    finally:
        _schedule_as(os.SCHED_OTHER)


def most_connections() -> int:
    """Returns how many connections may be open, with enough files left for the rest of the server."""
    return min(MOST_CONNECTIONS, max(LEAST_CONNECTIONS, _allowed_files() - RESERVED_FILES))


def _allowed_files() -> int:
    """Returns how many files this process may have open."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed


def _policy() -> int | None:
    """Returns the calling thread's scheduling policy; None if a sandbox hides it."""
    try:
        return os.sched_getscheduler(0)
    except OSError:
        return None


def _schedule_as(policy: int) -> None:
    """Sets the calling thread's scheduling policy; threads that it starts inherit it."""
    with suppress(OSError):  # a sandbox may not support it; then nothing changes
        os.sched_setscheduler(0, policy, os.sched_param(0))


def _groups(controller: str, cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yields the folders of this process's control groups and of all groups above: each may have a limit.

    Version 2 has one tree of groups, version 1 has one for each controller. Not all folders need exist: a container may
    see its own group as the root, while the names of its groups are still the host's.
    """
    own = {cgroups: "/", cgroups / controller: "/"}
    with suppress(OSError, ValueError):  # a sandbox may not have the file, or one of its own making
        for line in membership.read_text(errors="surrogateescape").splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers:
                own[cgroups] = name
            elif controller in controllers.split(","):
                own[cgroups / controller] = name
    for root, name in own.items():
        inside = Path(name.lstrip("/"))
        yield root
        if ".." not in inside.parts:  # otherwise it is outside of what this process sees
            yield from (root / part for part in (inside, *inside.parents[:-1]))


def _quota(group: Path) -> int | None:
    """Returns how many whole cores a group may use; None without a limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) // int(period) if int(quota) >= 0 else None
    except (OSError, ValueError):  # no such file, or no limit: "max 100000"
        return None


def _left(limit: Path, used: Path, stat: Path, files: str, shared: str) -> int | None:
    """Returns how many bytes a limit leaves; None without a limit.

    Cached files count as free, since the kernel drops them when memory is needed; files in shared memory do not.
    """
    try:
        counts = dict(line.split() for line in stat.read_text().splitlines())
        reclaimable = int(counts.get(files, "0")) - int(counts.get(shared, "0"))
        return int(limit.read_text()) - int(used.read_text()) + reclaimable
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return None
