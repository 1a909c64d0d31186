"""Attacks a server with hostile and broken clients, one kind after another, and checks other calls meanwhile.

During each attack a standard client makes calls without pause, and every answer must be right. After the attack the
server's memory is compared with that before it. Exits with 1 if a promise was broken.

    python benchmarks/abuse.py
    python benchmarks/abuse.py --quick        # a few seconds, as in the suite
    python benchmarks/abuse.py --only bombs rapid_resets
"""

import argparse
import math
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
from attacks import ATTACKS, Attack
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub
from peer_by_hand import QUESTION
from report import Goal, Section, emit
from serving import Served, as_process

FLAGS = ["--max-sequences", "8", "--max-waiting", "128"]
ENOUGH_FILES = 12_000
ANSWER_SECONDS = 30.0
SAMPLE_SECONDS, ASK_SECONDS = 0.05, 0.01
PATIENCE_SECONDS, QUICK_PATIENCE_SECONDS = 90.0, 0.5
"""How long to wait for the server to end an attacker's connection."""
MOST_KEPT_MIB = 192
"""The most memory that may stay in use after an attack; the first of a kind fills pools that the next ones use."""
WORST = ("2", "13")
"""UNKNOWN and INTERNAL."""
MALFORMED = "wrong_headers"
"""The only attack to which gRPC itself answers INTERNAL: malformed headers."""
SILENT = ("says_nothing", "half_a_preface")
LONGEST_SILENCE_SECONDS = 20.0
MIB = 2**20


@dataclass
class Found:
    """What happened to the server and to other callers during an attack."""

    name: str
    size: int
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    ended_seconds: float | None = None
    before_bytes: int = 0
    peak_bytes: int = 0
    after_bytes: int = 0
    num_answers: int = 0
    slowest_seconds: float = 0.0
    """Duration of the slowest of those answers."""
    broken: list[str] = field(default_factory=list)


class Neighbour:
    """A client that makes calls without pause, and records what must not happen."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub: Any = ChatServiceStub(self._channel)
        self._health = HealthStub(self._channel)
        self._answer = self._stub.Chat(QUESTION, timeout=ANSWER_SECONDS).response

    def ask(self, found: Found) -> None:
        """Makes one call and one health check."""
        started = time.perf_counter()
        try:
            answer = self._stub.Chat(QUESTION, timeout=ANSWER_SECONDS).response
            status = self._health.Check(HealthCheckRequest(), timeout=ANSWER_SECONDS).status
        except grpc.RpcError as error:
            found.broken.append(f"a neighbour's call failed: {error}")
            return
        if answer != self._answer or status != HealthCheckResponse.SERVING:
            found.broken.append(f"a neighbour was told {answer!r}, health {status}")
        found.num_answers += 1
        found.slowest_seconds = max(found.slowest_seconds, time.perf_counter() - started)


@contextmanager
def repeatedly(work: Callable[[], None], pause_seconds: float) -> Iterator[None]:
    """Repeats the work while the block runs."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(pause_seconds):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def attacked(served: Served, neighbour: Neighbour, attack: Attack, name: str) -> Found:
    """Makes one attack and returns its results."""
    found = Found(name, attack.size, before_bytes=served.memory_bytes())
    found.peak_bytes = found.before_bytes
    run = next(run for run in ATTACKS if run.__name__ == name)
    started = time.perf_counter()

    def sample() -> None:
        found.peak_bytes = max(found.peak_bytes, served.memory_bytes())

    with repeatedly(sample, SAMPLE_SECONDS), repeatedly(lambda: neighbour.ask(found), ASK_SECONDS):
        run(attack)
    found.seconds = time.perf_counter() - started
    neighbour.ask(found)
    found.statuses, found.ended_seconds = dict(attack.statuses), attack.ended_seconds
    found.after_bytes = served.memory_bytes()
    if found.after_bytes - found.before_bytes > MOST_KEPT_MIB * MIB:
        found.broken.append(f"{(found.after_bytes - found.before_bytes) // MIB} MiB stay behind")
    if name != MALFORMED and any(status in WORST for status in attack.statuses):
        found.broken.append(f"INTERNAL or UNKNOWN: {found.statuses}")
    if not served.is_running:
        found.broken.append("the server ended")
    return found


def section(all_found: list[Found], served: Served, quick: bool) -> Section:
    """The results and goals."""
    rows = [
        [
            found.name.replace("_", " "),
            f"{found.size:,}",
            f"{found.before_bytes // MIB}",
            f"{found.peak_bytes // MIB}",
            f"{found.after_bytes // MIB}",
            f"{1e3 * found.slowest_seconds:.0f}",
            "-" if found.ended_seconds is None else f"{found.ended_seconds:.0f}",
            " ".join(f"{status}×{count}" for status, count in sorted(found.statuses.items())) or "-",
        ]
        for found in all_found
    ]
    broken = [f"{found.name}: {what}" for found in all_found for what in found.broken]
    silent = [found.ended_seconds for found in all_found if found.name in SILENT]
    return Section(
        title="Abuse",
        about="What clients that are broken or mean harm do to a server of the demo, while another one asks: memory in "
        "MiB, the slowest answer of the other one in ms, seconds until the server had ended the offenders' "
        "connections, and their calls by grpc-status.",
        command="python benchmarks/abuse.py",
        columns=["", "times", "before", "peak", "after", "slowest", "ended", "statuses"],
        rows=rows,
        goals=[
            Goal.at_most("broken promises", 0, len(broken)),
            Goal.at_most("errors in the server's log", 0, len(served.severe)),
            *(
                Goal.at_most("silent connections are ended within", LONGEST_SILENCE_SECONDS, seconds or math.inf, " s")
                for seconds in (() if quick else silent)
            ),
        ],
        notes=[*broken, *served.severe],
        data={"attacks": [asdict(found) for found in all_found]},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little of everything, and little patience")
    names = [run.__name__ for run in ATTACKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, ENOUGH_FILES), most))
    patience = QUICK_PATIENCE_SECONDS if options.quick else PATIENCE_SECONDS
    all_found = []
    with as_process(*FLAGS) as served:
        neighbour = Neighbour(served.address)
        for run, sizes in ATTACKS.items():
            if run.__name__ in options.only:
                attack = Attack(served.address, sizes[not options.quick], patience)
                all_found.append(attacked(served, neighbour, attack, run.__name__))
                print(f"{run.__name__}: {all_found[-1].seconds:.1f} s", file=sys.stderr, flush=True)
        found = section(all_found, served, options.quick)
    emit(found)
    sys.exit(any(goal.is_met is False for goal in found.goals))


if __name__ == "__main__":
    main()
