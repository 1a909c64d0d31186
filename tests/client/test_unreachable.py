"""A server that cannot be reached is reported as such even if the timeout passes before the last retry."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from click.testing import Result
from index_grpc_client import AsyncClient, Client, DeadlineError, UnavailableError
from index_grpc_client.status import StatusDetails
from index_grpc_client.translation import connectivity, may_be_unreachable

from .either import EitherClient, drained, settled
from .fake_server import SERVICE, FakeServer

TIMEOUT_S = 0.5
"""Shorter than the pauses between the attempts of a call."""

CALLS: dict[str, Callable[[EitherClient], Awaitable[object]]] = {
    "chat": lambda client: settled(client.chat("Hi", request_id="r1")),
    "chat_stream": lambda client: drained(client.chat_stream("Hi", request_id="r1")),
    "next": lambda client: first(client),
    "count_tokens": lambda client: settled(client.count_tokens("Hi", request_id="r1")),
    "model": lambda client: settled(client.model(request_id="r1")),
    "health": lambda client: settled(client.health(request_id="r1")),
}


async def first(client: EitherClient) -> object:
    """Returns the first chunk of an answer, or None."""
    if isinstance(client, AsyncClient):
        return await anext(client.chat_stream("Hi", request_id="r1"), None)
    return next(client.chat_stream("Hi", request_id="r1"), None)


@pytest.fixture(params=[Client, AsyncClient])
async def hasty(request: pytest.FixtureRequest, server: FakeServer) -> AsyncIterator[EitherClient]:
    """Either client, with a short timeout."""
    client: EitherClient = request.param(server.address, timeout=TIMEOUT_S)
    yield client
    await settled(client.close())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_no_server_is_unavailable(
    hasty: EitherClient, server: FakeServer, call: Callable[[EitherClient], Awaitable[object]]
) -> None:
    server.stop()
    with pytest.raises(UnavailableError, match=r"the timeout passed, .*Connection refused") as caught:
        await call(hasty)
    assert (caught.value.code(), caught.value.request_id) == (grpc.StatusCode.UNAVAILABLE, "r1")
    assert isinstance(caught.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_server_that_has_gone_is_unavailable(
    hasty: EitherClient, server: FakeServer, call: Callable[[EitherClient], Awaitable[object]]
) -> None:
    await settled(hasty.model(timeout=60))
    server.stop()
    with pytest.raises(UnavailableError, match="last error: "):
        await call(hasty)


@pytest.mark.parametrize("call", [CALLS["chat"], CALLS["chat_stream"], CALLS["next"]])
async def test_a_slow_server_is_not(
    hasty: EitherClient, server: FakeServer, call: Callable[[EitherClient], Awaitable[object]]
) -> None:
    server.script.hold_after = 0
    await settled(hasty.model(timeout=60))
    with pytest.raises(DeadlineError) as caught:
        await call(hasty)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await settled(hasty.model(timeout=60))).model == "demo"
    assert {method.partition("/")[0] for method in server.methods} == {SERVICE}, "the server was asked for the reason"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_server_that_says_nothing_is_not(kind: type[Client] | type[AsyncClient], silent: str) -> None:
    client = kind(silent, timeout=TIMEOUT_S)
    for call in CALLS.values():
        with pytest.raises(DeadlineError):
            await call(client)
    await settled(client.close())


def test_a_deadline_of_which_the_server_itself_tells_is_not() -> None:
    failure = DeadlineError("too short", grpc.StatusCode.DEADLINE_EXCEEDED, StatusDetails(reason="DEADLINE_TOO_SHORT"))
    assert not may_be_unreachable(failure, None)
    assert may_be_unreachable(DeadlineError("passed", grpc.StatusCode.DEADLINE_EXCEEDED), None)


def test_a_client_that_is_closed_while_the_reason_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may do so. The call itself was made before, so its failure is that of a call."""

    def then_closed(channel: grpc.Channel) -> grpc.ChannelConnectivity | None:
        found = connectivity(channel)
        client.close()
        return found

    monkeypatch.setattr("index_grpc_client.translation.connectivity", then_closed)
    client = Client("127.0.0.1:1", timeout=TIMEOUT_S)
    with pytest.raises(DeadlineError):
        client.model()


class WatchedChannel:
    """A channel that does not tell its state, and counts who waits for it."""

    num_watchers = 0

    def subscribe(self, callback: object) -> None:
        self.num_watchers += 1

    def unsubscribe(self, callback: object) -> None:
        self.num_watchers -= 1


class InterruptedEvent(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


def test_ctrl_c_ends_the_look_at_the_channels_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc_client.translation.threading", SimpleNamespace(Event=InterruptedEvent))
    channel = WatchedChannel()
    with pytest.raises(KeyboardInterrupt):
        connectivity(cast("grpc.Channel", channel))
    assert channel.num_watchers == 0


@pytest.mark.parametrize("command", ["ask", "chat", "count", "health", "model"])
def test_the_command_line_says_so(run: Callable[..., Result], server: FakeServer, command: str) -> None:
    server.stop()
    result = run(command, "--timeout", str(TIMEOUT_S), stdin="Hi\n")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"error: {server.address} cannot be reached: "), result.stderr
    assert f"hint: is a server running at {server.address}?" in result.stderr
