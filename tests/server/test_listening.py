"""Where a server listens: Unix sockets, who can reach it, and how to call it."""

import asyncio
import os
import shlex
import signal
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from index_grpc_client import AsyncClient
from index_grpc_client.cli.commands import index_client
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.cli import main
from index_grpc.errors import StartupError
from index_grpc.launch import extra_ports
from index_grpc.server.app import App
from index_grpc.server.binding import reason, trial
from index_grpc.server.listen import GrpcPort
from index_grpc.server.unix_socket import require_free
from tests.certificates import authority, issued
from tests.conftest import settings
from tests.server.asking import unary
from tests.server.fake_runner import fake_server, letters

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.sock"


def permissions(path: Path) -> str:
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    return f"{found.st_mode & 0o777:o}"


@pytest.mark.parametrize("mode", ["600", "0660", "777"])
async def test_a_unix_socket_with_its_permissions(path: Path, mode: str) -> None:
    before = os.umask(0o022)
    try:
        async with fake_server(unix_socket=path, unix_socket_mode=mode) as server:
            assert server.address == f"unix:{path}"
            assert permissions(path) == mode.removeprefix("0")
            assert await unary(server.stub, REQUEST) == letters(5)
            async with AsyncClient(server.address) as client:
                assert (await client.chat("Hi", max_tokens=5)).text == letters(5)
        assert os.listdir(path.parent) == []
    finally:
        assert os.umask(before) == 0o022  # unchanged


async def test_a_unix_sockets_permissions_are_never_wider(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads them just after the socket is created, before anything could correct them."""
    seen: list[str] = []
    add: Any = type(grpc.aio.server()).add_insecure_port

    def look(server: grpc.aio.Server, address: str) -> int:
        port: int = add(server, address)
        seen.append(permissions(path))
        return port

    monkeypatch.setattr("grpc.aio._server.Server.add_insecure_port", look)
    async with fake_server(unix_socket=path):
        assert seen == ["600"]


async def test_the_socket_of_an_ended_server_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with fake_server(unix_socket=path) as server:
        assert permissions(path) == "600"
        assert await unary(server.stub, REQUEST) == letters(5)


def test_the_socket_of_a_server_that_accepts_nothing_any_more_is_not_waited_for(path: Path) -> None:
    with ExitStack() as open_sockets:
        stuck = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
        stuck.bind(str(path))
        stuck.listen(0)
        with suppress(BlockingIOError):  # until no more connections may wait to be accepted
            while True:
                caller = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
                caller.setblocking(False)
                caller.connect(str(path))
        open_sockets.callback(signal.alarm, 0)
        open_sockets.callback(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, give_up))
        signal.alarm(5)
        with pytest.raises(StartupError, match="is in use by a running server"):
            require_free(path)


def give_up(*_: object) -> None:
    raise AssertionError("still waiting for the server")


async def test_the_socket_of_a_running_server_is_not_replaced(path: Path) -> None:
    async with fake_server(unix_socket=path) as server:
        with pytest.raises(StartupError, match="in use by a running server; name another path or stop that server"):
            await App(settings("any", unix_socket=path)).listen()
        assert await unary(server.stub, REQUEST) == letters(5)
        async with AsyncClient(server.address) as client:  # over a new connection
            assert (await client.chat("Hi", max_tokens=5)).text == letters(5)


@pytest.mark.parametrize("name", ["50%25.sock", "50%.sock", "a#b", "a?b", "a b", "套接字", "\udcff"])
async def test_special_characters_in_a_sockets_path_are_kept(tmp_path: Path, name: str) -> None:
    async with fake_server(unix_socket=tmp_path / name) as server:
        assert os.listdir(tmp_path) == [name]
        assert await unary(server.stub, REQUEST) == letters(5)
        words = shlex.split(server.app.access.port.client_options(server.address))
        for command, asked in ((main, ["health", *words]), (index_client, [*words, "health"])):
            result = await asyncio.to_thread(CliRunner().invoke, command, asked)
            assert (result.exit_code, result.stdout) == (0, "SERVING\n")
        with pytest.raises(StartupError, match="in use by a running server"):
            await App(settings("any", unix_socket=tmp_path / name)).listen()


@pytest.mark.parametrize("name", ["50%.sock", "a#b", "a?b", "so ck%#?é.sock"])
async def test_callers_may_write_a_sockets_path_as_it_is(tmp_path: Path, name: str) -> None:
    async with fake_server(unix_socket=tmp_path / name):
        for command in (main, index_client):
            words = ["health", "--address", f"unix:{tmp_path / name}"]
            result = await asyncio.to_thread(CliRunner().invoke, command, words)
            assert (result.exit_code, result.output) == (0, "SERVING\n")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("file", "exists and is not a socket; name another path or delete it"),
        ("nowhere/server.sock", "is not a directory in which this user may create a socket"),
        ("file/server.sock", "is not a directory in which this user may create a socket"),
        ("x" * 120, "the path of a socket has at most 107"),
        ("a,b.sock", "has a comma, at which gRPC's clients split an address; name a path without one"),
        ("a,b/server.sock", "has a comma, at which gRPC's clients split an address; name a path without one"),
    ],
)
async def test_paths_where_no_socket_can_be(tmp_path: Path, name: str, error: str) -> None:
    file = tmp_path / "file"
    await asyncio.to_thread(file.write_text, "something")
    with pytest.raises(StartupError) as caught:
        await App(settings("any", unix_socket=tmp_path / name)).listen()
    assert str(caught.value).startswith(f"--unix-socket {tmp_path / name}")
    assert error in str(caught.value)
    assert await asyncio.to_thread(file.read_text) == "something"


async def listening(**changes: object) -> None:
    """Opens and closes the port."""
    chosen = settings("any", **changes)
    app = App(chosen, ports=extra_ports(chosen))
    try:
        await app.listen()
    finally:
        await app.stop()


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("203.0.113.1", "this machine does not have that address; check {}-host"),
        ("nohost.invalid", "the name cannot be resolved; check {}-host"),
        ("x" * 70, "the name cannot be resolved; check {}-host"),
    ],
    ids=["address", "name", "no name"],
)
async def test_the_reason_why_an_address_cannot_be_listened_on(host: str, why: str) -> None:
    with pytest.raises(StartupError) as caught:
        await listening(host=host)
    assert str(caught.value) == f"cannot listen on {host}:0: {why.format('-')}"
    with pytest.raises(StartupError) as caught:
        await listening(http_host=host, http_port=0)
    assert str(caught.value) == f"cannot listen on {host}:0 for HTTP: {why.format('--http')}"


def test_of_a_names_addresses_that_of_a_port_in_use_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for localhost where /etc/hosts has an address that the machine lacks."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        places = [("192.0.2.1", port), ("127.0.0.1", port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert "another program listens there" in reason(trial("localhost", port), "--host", "--port")


READ_ALONG, USE_IT = "not encrypted (set --tls-cert", "no API key is required (set --api-keys-file)"


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "::"])
async def test_a_port_that_others_can_reach_is_warned_about(host: str, caplog: pytest.LogCaptureFixture) -> None:
    await listening(host=host)
    (line,) = caplog.messages
    assert "can be reached from other machines" in line
    assert READ_ALONG in line
    assert USE_IT in line


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "::1", "127.0.0.2"])
async def test_a_port_on_the_loopback_is_not_warned_about(host: str, caplog: pytest.LogCaptureFixture) -> None:
    await listening(host=host)
    assert caplog.messages == []


async def test_a_unix_socket_is_not_warned_about(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await listening(host="0.0.0.0", unix_socket=path)
    assert caplog.messages == []


async def test_the_warning_names_only_the_missing_protection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = issued(authority(tmp_path / "ca.pem"), tmp_path, "server", "localhost")
    tls = {"host": "0.0.0.0", "tls_cert": pair.cert, "tls_key": pair.key}
    await listening(**tls)
    assert USE_IT in caplog.text
    assert READ_ALONG not in caplog.text
    caplog.clear()
    await listening(**tls, tls_client_ca=tmp_path / "ca.pem")
    assert caplog.messages == []


def test_the_options_with_which_a_client_reaches_the_server(tmp_path: Path, path: Path) -> None:
    pair = issued(authority(tmp_path / "ca.pem"), tmp_path, "server", "*.example.org", "index.example.org", "::1")
    tls = {"tls_cert": pair.cert, "tls_key": pair.key}

    def words(address: str, **changes: object) -> str:
        return GrpcPort(settings("any", **changes)).client_options(address)

    assert words("127.0.0.1:5") == "--address 127.0.0.1:5"
    assert words(f"unix:{path}", unix_socket=path) == f"--address unix:{path}"
    assert words("0.0.0.0:5", **tls) == f"--address 0.0.0.0:5 --ca {pair.cert} --server-name index.example.org"
    assert words("[::1]:5", **tls) == f"--address '[::1]:5' --ca {pair.cert}"
    mutual = words("0.0.0.0:5", **tls, tls_client_ca=tmp_path / "ca.pem")
    assert (
        mutual == f"--address 0.0.0.0:5 --ca {pair.cert} --server-name index.example.org --cert CERT.pem --key KEY.pem"
    )
    assert words("127.0.0.1:5", api_keys_file=tmp_path / "keys.toml") == "--address 127.0.0.1:5 --api-key KEY"


@pytest.mark.parametrize(("encrypted", "with_keys"), [(True, False), (True, True), (False, True)])
async def test_the_client_works_with_the_options_that_the_server_prints(
    tmp_path: Path, path: Path, encrypted: bool, with_keys: bool
) -> None:
    """With TLS on all addresses, or on a Unix socket."""
    pair = issued(authority(tmp_path / "ca.pem"), tmp_path, "server", "localhost")
    keys = tmp_path / "keys.toml"
    (key,) = CliRunner().invoke(main, ["keys", "new", "alice", "--file", str(keys)]).stdout.split()
    async with fake_server(
        host="0.0.0.0",
        tls_cert=pair.cert if encrypted else None,
        tls_key=pair.key if encrypted else None,
        unix_socket=None if encrypted else path,
        api_keys_file=keys if with_keys else None,
    ) as server:
        words = shlex.split(server.app.access.port.client_options(server.address))
        asked = [*(key if word == "KEY" else word for word in words), "ask", "Hi", "--max-tokens", "5"]
        result = await asyncio.to_thread(CliRunner().invoke, index_client, asked)
    assert (result.exit_code, result.stdout) == (0, f"{letters(5)}\n")
