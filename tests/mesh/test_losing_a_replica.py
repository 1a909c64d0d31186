"""When a replica dies or is restarted, only the streams that it had begun fail, and they keep their text so far."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.client import IncompleteRead
from pathlib import Path

import grpc
import pytest
from index_grpc_client import AsyncClient, IncompleteAnswerError

from tests.checkpoints import make_checkpoint
from tests.client.either import drained
from tests.mesh.asking import Ask, Caller, calling
from tests.mesh.conftest import Run
from tests.mesh.envoy import running_envoy
from tests.mesh.replicas import Replica, started
from tests.mesh.web import JSON, answer
from tests.test_rolling_restart import free_port

pytestmark = pytest.mark.mesh


@dataclass
class Load:
    """Callers that make calls until the load is over."""

    caller: Caller
    over: bool = False
    texts: list[str] = field(default_factory=list)
    lost: dict[str, grpc.aio.AioRpcError] = field(default_factory=dict)
    """The errors of failed calls, by their ids."""

    async def keep_asking(self, ask: Ask, name: str) -> None:
        for number in itertools.count():
            if self.over:
                return
            try:
                self.texts.append(await ask(request_id := f"{name}-{number}"))
            except grpc.aio.AioRpcError as error:
                self.lost[request_id] = error

    async def grows(self, by: int) -> None:
        """Waits until `by` more calls have been answered."""
        wanted = len(self.texts) + by
        async with asyncio.timeout(30):
            while len(self.texts) < wanted:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def loading(address: str, num_callers: int) -> AsyncIterator[Load]:
    """Load on a proxy by `num_callers` callers with unary calls and as many with streams; ends with the block."""
    async with calling(address) as caller, asyncio.TaskGroup() as group:
        load = Load(caller)
        for number in range(num_callers):
            group.create_task(load.keep_asking(caller.unary, f"unary-{number}"))
            group.create_task(load.keep_asking(caller.stream, f"stream-{number}"))
        try:
            yield load
        finally:
            load.over = True


CODES = {"envoy": grpc.StatusCode.INTERNAL, "haproxy": grpc.StatusCode.UNKNOWN}
"""The status that gRPC reports behind each proxy when a stream's replica has died, as in deploy/envoy/README.md.

It applies to streams whose headers have been sent; calls that have not begun end with UNAVAILABLE.
"""


@pytest.fixture
def code(request: pytest.FixtureRequest) -> grpc.StatusCode:
    """The status of the proxy under test."""
    return CODES[request.node.callspec.params["run_proxy"]]


async def test_when_a_replica_dies_under_load_only_its_streams_fail(
    run_proxy: Run, code: grpc.StatusCode, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        victim, other = await asyncio.to_thread(started, stack)
        async with run_proxy(tmp_path, [victim.address, other.address]) as proxy, loading(proxy.address, 8) as load:
            await load.grows(200)
            victim.kill()
            await load.grows(200)
            await proxy.until_healthy(other.address)
            await load.grows(200)
    assert [(name, error) for name, error in load.lost.items() if error.code() is not code or "unary" in name] == []
    assert len(set(load.texts)) == 1


async def restart_in_turn(stack: ExitStack, replicas: list[Replica], load: Load, by: int) -> None:
    for replica in replicas:
        port = int(replica.address.rpartition(":")[2])
        await load.grows(by)
        replica.process.send(signal.SIGTERM)
        assert await asyncio.to_thread(replica.process.exit_code, 60) == 0
        (again,) = await asyncio.to_thread(started, stack, ["demo"], [port])
        while not (again.answered("unary") and again.answered("stream")):
            await asyncio.sleep(0.02)


async def test_restarts_in_turn_fail_no_call(run_proxy: Run, tmp_path: Path) -> None:
    with ExitStack() as stack:
        replicas = await asyncio.to_thread(started, stack, ports=[free_port(), free_port()])
        addresses = [replica.address for replica in replicas]
        async with run_proxy(tmp_path, addresses) as proxy, loading(proxy.address, 1) as load:
            await restart_in_turn(stack, replicas, load, by=50)
            await load.grows(200)
    assert load.lost == {}
    assert len(set(load.texts)) == 1


async def test_when_a_replica_dies_the_text_so_far_is_kept(
    run_proxy: Run, code: grpc.StatusCode, tmp_path: Path
) -> None:
    names = ["left", "right"]
    models = [str(make_checkpoint(tmp_path / name)) for name in names]  # models whose answers do not end soon
    with ExitStack() as stack:
        replicas = dict(zip(names, await asyncio.to_thread(started, stack, models), strict=True))
        addresses = [replica.address for replica in replicas.values()]
        async with run_proxy(tmp_path, addresses) as proxy, AsyncClient(proxy.address) as client:
            stream = client.chat_stream("Hi", max_tokens=480, request_id="torn")
            first = await anext(stream)
            assert first.start is not None
            replicas.pop(first.start.model).kill()
            with pytest.raises(IncompleteAnswerError) as caught:
                await drained(stream)
        (other,) = replicas.values()
        assert not other.saw("torn"), "what had begun was repeated"
    assert caught.value.code() is code
    assert caught.value.text == stream.text
    assert caught.value.text.startswith(first.delta)


async def test_when_a_replica_dies_a_json_stream_ends_incomplete(tmp_path: Path) -> None:
    models = [str(make_checkpoint(tmp_path / name)) for name in ("left", "right")]
    with ExitStack() as stack:
        replicas = await asyncio.to_thread(started, stack, models)
        async with running_envoy(tmp_path, [replica.address for replica in replicas]) as envoy:
            found = await answer(envoy.address, "ChatStream", {"prompt": "Hi", "maxTokens": 480}, JSON)
            assert '"start"' in await found.line()
            for replica in replicas:
                replica.kill()
            with pytest.raises(IncompleteRead):
                await found.body()
