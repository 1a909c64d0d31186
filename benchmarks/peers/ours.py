"""Our server, driven like the peers: started with its own command, and called over gRPC by its own client.

Flags of the server follow `--`.

    python -m peers.ours CHECKPOINT/llama --threads 2 -- --max-sequences 64
"""

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue

from index_grpc_client import AsyncClient, HealthStatus
from index_grpc_client.options import SamplingOptions
from serving import COMMAND, ended

from peers.protocol import REPETITION_PENALTY, TEMPERATURE, TOP_K, TOP_P, Answer, Options, Work, serve

READY = re.compile(r" ready in .* --address (\S+) ")
"""The log line that says that the server is ready, and its address."""

LOADING_SECONDS = 600.0
ANSWER_SECONDS = 3600.0


class Ours:
    """Opens streams to the server, on an event loop that runs only during a round."""

    def __init__(self, client: AsyncClient, loop: asyncio.Runner) -> None:
        self._client, self._loop = client, loop

    def prepare(self, work: Work) -> None:
        """Needs nothing."""

    def answer(self, work: Work) -> list[Answer]:
        """Opens all streams at once."""
        return self._loop.run(self._answer(work))

    async def _answer(self, work: Work) -> list[Answer]:
        return await asyncio.gather(*(self._stream(number, work) for number in range(len(work.texts))))

    async def _stream(self, number: int, work: Work) -> Answer:
        stream = self._client.chat_stream(
            work.texts[number], max_tokens=work.max_tokens, timeout=ANSWER_SECONDS, **_sampling(work, number)
        )
        instants = [time.perf_counter() async for _ in stream]
        result = stream.result()
        if result.usage.prompt_tokens != len(work.prompts[number]):
            lengths = f"{result.usage.prompt_tokens} tokens, not {len(work.prompts[number])}"
            raise RuntimeError(f"the server's prompt has {lengths}: text and ids of the workload are not the same")
        return Answer(instants, result.usage.completion_tokens, text=result.text)


def _sampling(work: Work, seed: int) -> SamplingOptions:
    if not work.sampled:
        return SamplingOptions(temperature=0.0, repetition_penalty=1.0)
    penalty = REPETITION_PENALTY
    return SamplingOptions(top_k=TOP_K, top_p=TOP_P, temperature=TEMPERATURE, repetition_penalty=penalty, seed=seed)


@contextmanager
def running_server(options: Options) -> Iterator[str]:
    """Starts our server and yields its address when it is ready; stops it at the end."""
    arguments = ["serve", "--model", str(options.checkpoint), "--port", "0", "--threads", str(options.threads)]
    command = [*COMMAND, *arguments, *options.flags]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with ended(server):
        yield _address(server)


def _address(server: "subprocess.Popen[str]") -> str:
    """Waits until the server is ready. Raises RuntimeError if it ends before or takes too long."""
    addresses: Queue[str] = Queue()
    threading.Thread(target=_pass_log_on, args=(server, addresses), daemon=True).start()
    try:
        address = addresses.get(timeout=LOADING_SECONDS)
    except Empty:
        raise RuntimeError(f"the server is not ready after {LOADING_SECONDS:g} s; see its log above") from None
    if not address:
        raise RuntimeError(f"the server ended with {server.wait()}; see its log above")
    return address


def _pass_log_on(server: "subprocess.Popen[str]", addresses: "Queue[str]") -> None:
    """Copies the log to standard error, and puts the address when the server is ready, or "" when it ends."""
    assert server.stderr
    for line in server.stderr:
        sys.stderr.write(line)
        if found := READY.search(line):
            addresses.put(found[1])
    addresses.put("")


async def _connect(address: str) -> AsyncClient:
    client = AsyncClient(address)
    if (status := await client.health()) is not HealthStatus.SERVING:
        raise RuntimeError(f"{address}: health is {status} of a server that says it is ready")
    return client


@contextmanager
def open_engine(options: Options) -> Iterator[Ours]:
    with asyncio.Runner() as loop, running_server(options) as address:
        client = loop.run(_connect(address))
        try:
            yield Ours(client, loop)
        finally:
            loop.run(client.close())


if __name__ == "__main__":
    serve("index-grpc", ["index-grpc", "torch"], open_engine)
