"""How long a server takes until it is ready, and the peak memory of loading.

python benchmarks/start.py                    # the demo: seconds to SERVING
python benchmarks/start.py --full             # and the real model's shape: seconds and memory
"""

import argparse
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from checkpoints import converted
from index_grpc_client import Client
from report import Goal, Section, emit
from serving import COMMAND, ended

from index_grpc.model.checkpoint import num_parameters
from index_grpc.model.config import read_config

IMPORTS = "import index_grpc.launch, index_grpc.loading"
READY = re.compile(r"ready in .*--address (\S+) ")
SAMPLE_SECONDS = 0.05
GIB = 2**30


def import_seconds() -> float:
    """The seconds that a new interpreter takes to import everything that serving needs."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - started


class PeakMemory:
    """Measures the peak of a process's anonymous memory while the block runs."""

    def __init__(self, pid: int) -> None:
        self.num_bytes = 0
        self._status, self._over = Path(f"/proc/{pid}/status"), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            found = re.search(r"RssAnon:\s+(\d+) kB", self._status.read_text())
            self.num_bytes = max(self.num_bytes, int(found[1]) * 1024 if found else 0)


def start(*flags: str) -> tuple[float, int]:
    """The seconds from the command until the server is ready, and the peak of anonymous memory in bytes."""
    command = [*COMMAND, "serve", "--port", "0", *flags]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with ended(process), PeakMemory(process.pid) as memory:
        assert process.stderr is not None
        ready = next((match for line in process.stderr if (match := READY.search(line))), None)
        if ready is None:
            raise RuntimeError(f"{' '.join(command)} ended with {process.wait()}")
        seconds = time.perf_counter() - started
        with Client(ready[1]) as client:
            client.chat("Hello", max_tokens=1)
        return seconds, memory.num_bytes


def measure(options: argparse.Namespace) -> Section:
    imports = statistics.median(import_seconds() for _ in range(options.rounds))
    ready = statistics.median(start("--model", "demo")[0] for _ in range(options.rounds))
    rows = [
        ["importing all that serves", f"{imports:.1f} s", ""],
        ["demo, from command to SERVING", f"{ready:.1f} s", ""],
    ]
    goals = [Goal.at_most("demo, from command to SERVING", 5, ready, " s")]
    data: dict[str, object] = {"imports_s": imports, "demo_s": ready}
    if options.full:
        model = converted("full", gguf=()) / "llama"
        seconds, peak = start("--model", str(model), "--max-sequences", "4")
        float32 = 4 * num_parameters(read_config(model))
        rows.append(["full shape, from command to SERVING", f"{seconds:.1f} s", f"{peak / GIB:.2f} GiB at the peak"])
        rows.append(["its weights in float32", "", f"{float32 / GIB:.2f} GiB"])
        goals.append(Goal.at_most("peak of anonymous memory by the float32 weights", 1.1, peak / float32))
        data |= {"full_s": seconds, "full_peak_bytes": peak, "full_float32_bytes": float32}
    return Section(
        title="Starting",
        about="The command `index-grpc serve` from its start to the first answer it gives itself; anonymous memory "
        "(RssAnon) is read twenty times a second until then.",
        command=f"python benchmarks/start.py{' --full' if options.full else ''}",
        columns=["", "time", "memory"],
        rows=rows,
        goals=goals,
        data=data,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="starts of the demo; the median counts (default 3)")
    emit(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
