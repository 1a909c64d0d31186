"""Checks a server's health at a steady rate until its input ends, and prints the seconds of each check.

python benchmarks/health_probe.py 127.0.0.1:50051 50
"""

import json
import sys
import threading
import time

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

LONGEST_CHECK_SECONDS = 10.0


def probe(address: str, rate: float, over: threading.Event) -> list[float]:
    """The seconds of each check, counted from when it was due. Raises if the answer is not SERVING."""
    seconds: list[float] = []
    with grpc.insecure_channel(address) as channel:
        stub = HealthStub(channel)
        stub.Check(HealthCheckRequest(), timeout=LONGEST_CHECK_SECONDS, wait_for_ready=True)
        due = time.perf_counter()
        while not over.wait(max(0.0, due - time.perf_counter())):
            if stub.Check(HealthCheckRequest(), timeout=LONGEST_CHECK_SECONDS).status != HealthCheckResponse.SERVING:
                raise RuntimeError("health is not SERVING")
            seconds.append(time.perf_counter() - due)
            due = max(due + 1 / rate, time.perf_counter())
    return seconds


def main() -> None:
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    print(json.dumps(probe(sys.argv[1], float(sys.argv[2]), over)))


if __name__ == "__main__":
    main()
