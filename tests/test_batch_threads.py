"""The scheduling policies of threads: those of gRPC wait for a core, those that compute do not."""

import os
import threading
from os import sched_getscheduler
from pathlib import Path

import pytest

from index_grpc.machine import batch_threads
from tests.process import serving

OF_GRPC = ("event_engine", "grpc_global_tim", "lifeguard")


def policy_of_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(sched_getscheduler(0)))
    thread.start()
    thread.join()
    return found[0]


def policies(pid: int) -> dict[int, tuple[str, int]]:
    """The name and the scheduling policy of each thread."""
    threads = map(int, os.listdir(f"/proc/{pid}/task"))
    return {tid: (Path(f"/proc/{tid}/comm").read_text().strip(), os.sched_getscheduler(tid)) for tid in threads}


def test_threads_started_in_the_block_get_the_batch_policy() -> None:
    with batch_threads():
        assert policy_of_new_thread() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == policy_of_new_thread() == os.SCHED_OTHER


def test_a_policy_that_was_set_before_is_kept() -> None:
    found: list[int] = []

    def work() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with batch_threads():
            found.append(os.sched_getscheduler(0))
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [os.SCHED_IDLE, os.SCHED_IDLE]


@pytest.mark.parametrize("call", ["sched_setscheduler", "sched_getscheduler"])
def test_a_sandbox_may_forbid_changing_the_policy(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, call, refuse)
    with batch_threads():
        assert policy_of_new_thread() == os.SCHED_OTHER


@pytest.mark.parametrize("where", ["--no-engine-process", "--engine-process"])
def test_only_grpcs_threads_have_the_batch_policy(checkpoint: Path, where: str) -> None:
    with serving("--model", str(checkpoint), "--device", "cpu", "--port", "0", where) as process:
        process.address()
        found = policies(process.pid)
        assert found.pop(process.pid)[1] == os.SCHED_OTHER, "the event loop's"
        of_grpc = [policy for name, policy in found.values() if name in OF_GRPC]
        assert of_grpc
        assert set(of_grpc) == {os.SCHED_BATCH}
        others = [policy for name, policy in found.values() if name not in OF_GRPC]
        assert others.count(os.SCHED_BATCH) == 1, "the one that takes gRPC's events"
        computing = [policy for child in process.children for _, policy in policies(child.pid).values()]
        assert set(computing) <= {os.SCHED_OTHER}
        assert len(others) + len(computing) > 1
