"""Waiting until a server is ready: what ends the wait, what does not, and what is said if it was in vain."""

import asyncio
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from index_grpc_client import (
    AsyncClient,
    CallCancelledError,
    Client,
    DeadlineError,
    HealthStatus,
    IndexGrpcError,
    InternalError,
    UnauthenticatedError,
    UnavailableError,
)
from index_grpc_client.cli.failure import HINTS_ON_CONNECTING
from index_grpc_client.readiness import LASTING, LONGEST_CHECK_S, LONGEST_PAUSE_S, Wait
from index_grpc_client.status import StatusDetails

from tests.server.fake_runner import fake_server

from .either import EitherClient, settled
from .fake_server import TEXT, Failure, FakeServer, Script, no_access, overloaded, rate_limited

LONG_S = 60.0
"""A time that never passes here."""
ENOUGH_S = 2.0
"""Enough time to see why a server is not ready."""
KINDS = pytest.mark.parametrize("kind", [Client, AsyncClient])
Kind = type[Client] | type[AsyncClient]
AtFirstPause = Callable[[Callable[[], object]], list[float]]


@pytest.fixture
def at_first_pause(monkeypatch: pytest.MonkeyPatch) -> AtFirstPause:
    """Has a wait do something when it has seen for the first time that the server is not ready."""
    pauses: list[float] = []
    next_pause = Wait.next_pause

    def begin(action: Callable[[], object]) -> list[float]:
        def paused(wait: Wait) -> float:
            pauses.append(next_pause(wait))
            if len(pauses) == 1:
                action()
            return pauses[-1]

        monkeypatch.setattr(Wait, "next_pause", paused)
        return pauses

    return begin


@pytest.fixture
def reserved() -> Iterator[str]:
    """An address at which nobody listens, and which only a server with SO_REUSEPORT can take, as those of gRPC can."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@KINDS
@pytest.mark.parametrize("where", ["TCP", "Unix", "several"])
async def test_a_port_that_opens_later(
    kind: Kind, where: str, reserved: str, tmp_path: Path, at_first_pause: AtFirstPause
) -> None:
    address = f"unix:{tmp_path}/socket" if where == "Unix" else reserved
    servers: list[FakeServer] = []
    pauses = at_first_pause(lambda: servers.append(FakeServer(address=address)))
    client = kind(f"ipv4:127.0.0.1:1,{address}" if where == "several" else address)
    await settled(client.wait_until_ready(LONG_S))
    assert pauses
    assert (await settled(client.chat("Hi"))).text == TEXT
    await settled(client.close())
    servers[0].stop()


async def test_a_server_that_is_not_serving_at_first(
    either: EitherClient, server: FakeServer, at_first_pause: AtFirstPause
) -> None:
    server.serve(False)
    pauses = at_first_pause(server.serve)
    await settled(either.wait_until_ready(LONG_S, "index.v1.ChatService", metadata={"x-team": "a"}))
    assert pauses
    assert {request.service for request in server.script.requests} == {"index.v1.ChatService"}


@KINDS
async def test_a_server_that_loads_at_first(kind: Kind, at_first_pause: AtFirstPause) -> None:
    loop = asyncio.get_running_loop()
    async with fake_server(loaded=False) as server:
        pauses = at_first_pause(lambda: asyncio.run_coroutine_threadsafe(server.load(), loop))
        client = kind(server.address)
        if isinstance(client, AsyncClient):
            await client.wait_until_ready(LONG_S)
        else:
            await asyncio.to_thread(client.wait_until_ready, LONG_S)
        assert pauses
        await settled(client.close())


@pytest.mark.parametrize(
    "failure",
    [
        rate_limited(retry_after_s=0),
        overloaded(retry_after_s=0),
        Failure(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        *(Failure(code, "restarting") for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)),
    ],
)
async def test_a_server_that_refuses_for_a_time(
    either: EitherClient, script: Script, at_first_pause: AtFirstPause, failure: Failure
) -> None:
    script.failures.extend([failure] * 9)  # more often than gRPC itself tries
    pauses = at_first_pause(script.failures.clear)
    await settled(either.wait_until_ready(LONG_S))
    assert pauses


@KINDS
async def test_a_server_that_never_comes(kind: Kind, reserved: str) -> None:
    client = kind(reserved)
    with pytest.raises(DeadlineError) as caught:
        await settled(client.wait_until_ready(ENOUGH_S))
    assert str(caught.value).startswith(f"{reserved} was not ready within {ENOUGH_S:g} s: it cannot be reached (")
    remedies = "start it, correct the address or the credentials, or allow more time"
    assert str(caught.value).endswith(f"Connection refused); {remedies}")
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await settled(client.close())


async def test_a_server_that_never_serves(either: EitherClient, server: FakeServer) -> None:
    server.serve(False)
    seen = f"{server.address} was not ready within .* s: its health is NOT_SERVING; .* see its log, or allow more time"
    with pytest.raises(DeadlineError, match=seen):
        await settled(either.wait_until_ready(ENOUGH_S))


@KINDS
async def test_a_server_that_says_nothing(kind: Kind, silent: str) -> None:
    client = kind(silent)
    with pytest.raises(DeadlineError, match="it does not answer; see its log, or allow more time"):
        await settled(client.wait_until_ready(0.3))
    await settled(client.close())


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (no_access("KEY_WRONG"), UnauthenticatedError),
        (Failure(grpc.StatusCode.UNIMPLEMENTED, "no such method"), IndexGrpcError),
        (Failure(grpc.StatusCode.INTERNAL, "broken"), InternalError),
    ],
)
async def test_what_waiting_cannot_mend_ends_it(
    either: EitherClient,
    script: Script,
    at_first_pause: AtFirstPause,
    failure: Failure,
    error: type[IndexGrpcError],
) -> None:
    script.failures.append(failure)
    pauses = at_first_pause(lambda: None)
    with pytest.raises(error, match=failure.message):
        await settled(either.wait_until_ready(LONG_S))
    assert not pauses


async def test_an_unknown_service_ends_it(either: EitherClient) -> None:
    with pytest.raises(IndexGrpcError) as caught:
        await settled(either.wait_until_ready(LONG_S, "none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@KINDS
async def test_encryption_that_is_set_wrongly_ends_it(kind: Kind, server: FakeServer) -> None:
    client = kind(server.address, tls=True)
    with pytest.raises(UnavailableError, match=r"^connections to all .*WRONG_VERSION_NUMBER"):
        await settled(client.wait_until_ready(LONG_S))
    await settled(client.close())


async def test_arguments_that_are_not_allowed(either: EitherClient) -> None:
    with pytest.raises(ValueError, match="timeout is 0 s; allowed is more than 0 s"):
        await settled(either.wait_until_ready(0))
    with pytest.raises(ValueError, match="service holds"):
        await settled(either.wait_until_ready(LONG_S, "\udcff"))
    await settled(either.close())
    with pytest.raises(ValueError, match="the client is closed"):
        await settled(either.wait_until_ready(LONG_S))


async def test_a_cancelled_task_ends_its_check(async_client: AsyncClient, script: Script) -> None:
    script.hold_health = True
    waiting = asyncio.ensure_future(async_client.wait_until_ready(LONG_S))
    assert await asyncio.to_thread(script.holding.wait, 30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(script.left.wait, 30), "the check went on"


async def test_a_cancelled_task_ends_its_pause(
    async_client: AsyncClient, server: FakeServer, at_first_pause: AtFirstPause
) -> None:
    server.serve(False)
    paused = asyncio.Event()
    at_first_pause(paused.set)
    waiting = asyncio.ensure_future(async_client.wait_until_ready(LONG_S))
    await paused.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_closing_the_client_ends_it(either: EitherClient, script: Script) -> None:
    script.hold_health = True

    async def wait() -> None:
        if isinstance(either, AsyncClient):
            await either.wait_until_ready(LONG_S)
        else:
            await asyncio.to_thread(either.wait_until_ready, LONG_S)

    waiting = asyncio.ensure_future(wait())
    assert await asyncio.to_thread(script.holding.wait, 30)
    await settled(either.close())
    with pytest.raises(CallCancelledError):
        await waiting


WAITING = "import sys; from index_grpc_client import Client; Client(sys.argv[1]).wait_until_ready(600)"


@pytest.mark.usefixtures("default_signal_handlers")
def test_ctrl_c_ends_it(server: FakeServer) -> None:
    server.script.hold_health = True
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, server.address], stderr=subprocess.PIPE, text=True
    ) as process:
        assert server.script.holding.wait(60)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert server.script.left.wait(30), "the check went on"


def test_without_time_for_an_answer_what_was_seen_before_counts() -> None:
    wait = Wait(1e-9, "it")
    wait.is_over(HealthStatus.NOT_SERVING)
    wait.goes_on_after(DeadlineError("Deadline Exceeded", grpc.StatusCode.DEADLINE_EXCEEDED))
    with pytest.raises(DeadlineError, match="it was not ready within 1e-09 s: its health is NOT_SERVING"):
        wait.next_pause()


@pytest.mark.parametrize(("timeout", "least", "most"), [(LONG_S, 20.0, 20.0), (10.0, 0.0, 10.0)])
def test_a_pause_is_as_long_as_the_server_asks_if_there_is_time(timeout: float, least: float, most: float) -> None:
    wait = Wait(timeout, "it")
    full = StatusDetails(reason="OVERLOADED", retry_after=20.0)
    wait.goes_on_after(UnavailableError("full", grpc.StatusCode.UNAVAILABLE, full))
    assert least <= wait.next_pause() <= most


@pytest.mark.usefixtures("uncollected")
def test_a_failed_check_leaves_no_reference_cycle() -> None:
    def check(wait: Wait) -> None:
        try:
            raise UnavailableError("restarting", grpc.StatusCode.UNAVAILABLE)
        except IndexGrpcError as error:
            wait.goes_on_after(error)

    check(wait := Wait(LONG_S, "it"))
    freed = weakref.ref(wait)
    del wait
    assert freed() is None


def test_checks_and_pauses_become_longer_up_to_a_limit() -> None:
    wait = Wait(LONG_S, "it")
    times = []
    for _ in range(12):
        wait.goes_on_after(DeadlineError("Deadline Exceeded", grpc.StatusCode.DEADLINE_EXCEEDED))
        times.append((wait.next_check(), wait.next_pause()))
    assert times == sorted(set(times)) + times[len(set(times)) :]
    assert times[-1] == (LONGEST_CHECK_S, LONGEST_PAUSE_S)


def test_the_command_line_has_a_hint_for_all_that_waiting_cannot_mend() -> None:
    assert set(LASTING) < HINTS_ON_CONNECTING.keys()
