"""Replicas: running processes of `index-grpc serve`."""

import re
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.process import Process, serving

QUICK = ("--device", "cpu", "--threads", "1")
DEMO = ("demo", "demo")


@dataclass(frozen=True)
class Replica:
    """A server and its address."""

    process: Process
    address: str

    def answered(self, beginning: str) -> int:
        """How many calls it has completed whose ids begin like this."""
        return sum(bool(re.search(rf"request_id={beginning}\S* .*code=OK", line)) for line in self.process.lines)

    def saw(self, request_id: str) -> bool:
        """Whether its log contains the call."""
        return any(f"request_id={request_id} " in line for line in self.process.lines)

    def kill(self) -> None:
        """Kills it at once, as if its machine had failed."""
        self.process.send(signal.SIGKILL)


def started(stack: ExitStack, models: Sequence[str] = DEMO, ports: Sequence[int] = (0, 0)) -> list[Replica]:
    """Servers that are ready; the stack stops them."""
    processes = [
        stack.enter_context(serving("--model", model, "--port", str(port), *QUICK))
        for model, port in zip(models, ports, strict=True)
    ]
    return [Replica(process, process.address()) for process in processes]
