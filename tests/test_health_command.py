"""The probe `index-grpc health`: its output, its exit codes, and how little it imports."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from index_grpc_client.cli.commands import index_client
from index_grpc_client.cli.failure import Exit

from index_grpc.cli import main
from tests.certificates import Pair, authority, issued
from tests.client.fake_server import FakeServer as ScriptedServer
from tests.process import INDEX_GRPC
from tests.server.fake_runner import FakeServer, fake_server

SERVING = (0, "SERVING\n", "")
NOT_SERVING = (1, "NOT_SERVING\n", "")
UNKNOWN = (1, "SERVICE_UNKNOWN\n", "")
HEAVY = {"torch", "pydantic", "transformers", "numpy", "uvloop", "index_grpc_client", "index_grpc.settings"}


async def probe(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Runs the probe; returns exit code, stdout and stderr."""
    result = await asyncio.to_thread(CliRunner().invoke, main, ["health", *arguments], env=environment)
    return result.exit_code, result.stdout, result.stderr


async def failing(*arguments: str) -> tuple[int, str]:
    """Runs a probe that fails; returns the exit code and its only line."""
    code, printed, error = await probe(*arguments)
    assert printed == ""
    (line,) = error.splitlines()
    return code, line.removeprefix("error: ")


async def test_readiness_and_liveness_are_distinguished() -> None:
    async with fake_server(loaded=False) as server:
        at = ("--address", server.address)
        assert [await probe(*at), await probe(*at, "--service", "liveness")] == [NOT_SERVING, SERVING]
        await server.load()
        assert [await probe(*at), await probe(*at, "--service", "index.v1.ChatService")] == [SERVING, SERVING]
        assert await probe(*at, "--service", "index.v1.ChatServices") == UNKNOWN


@pytest.mark.parametrize("service", [(), ("--service", "liveness"), ("--service", "none")], ids=" ".join)
async def test_the_clients_command_says_the_same(service: tuple[str, ...]) -> None:
    async with fake_server(loaded=False) as server:
        arguments = ("health", *service, "--address", server.address)
        theirs = await asyncio.to_thread(CliRunner().invoke, index_client, arguments)
        assert await probe(*arguments[1:]) == (theirs.exit_code, theirs.stdout, theirs.stderr)


async def test_a_status_without_a_name_is_unknown() -> None:
    server = ScriptedServer()
    server.health.set("", 77)
    assert await probe("--address", server.address) == (1, "UNKNOWN\n", "")
    server.stop()


async def test_the_environment_names_the_server_and_no_proxy_is_asked() -> None:
    async with fake_server() as server:
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:1")
        assert await probe(INDEX_GRPC_ADDRESS=server.address, no_proxy="", **proxies) == SERVING


async def test_an_unreachable_server_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        code, line = await failing("--address", address)
    assert code == Exit.UNAVAILABLE
    assert line.startswith(f"{address}: ")
    assert "Connection refused" in line


async def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        code, _ = await failing("--address", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.05")
    assert code == Exit.TIMEOUT


async def test_a_unix_socket(tmp_path: Path) -> None:
    async with fake_server(unix_socket=tmp_path / "index.sock"):
        assert await probe("--address", f"unix:{tmp_path}/index.sock") == SERVING


async def test_the_ways_to_write_an_ip_address() -> None:
    async with fake_server() as server:
        for address in (f"ipv4:{server.address}", f"ipv4:///{server.address}", f"ipv4:{server.address},127.0.0.1:1"):
            assert await probe("--address", address) == SERVING


def test_ipv6_addresses_are_accepted() -> None:
    result = CliRunner().invoke(main, ["health", "--address", "ipv6:[::1]:1"])
    assert result.exit_code == Exit.UNAVAILABLE


async def test_encryption_on_both_sides(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca.pem")
    served, shown = issued(ca, tmp_path, "server", "index-grpc"), issued(ca, tmp_path, "probe", "probe")
    trusted = tmp_path / "ca.pem"
    async with fake_server(tls_cert=served.cert, tls_key=served.key, tls_client_ca=trusted) as server:
        await _encrypted(server, trusted, shown)


async def _encrypted(server: FakeServer, ca: Path, shown: Pair) -> None:
    trusts, named = ("--address", server.address, "--ca", str(ca)), ("--server-name", "index-grpc")
    certified = ("--cert", str(shown.cert), "--key", str(shown.key))
    assert await probe(*trusts, *named, *certified) == SERVING
    for lacking in ((*trusts, *named), (*trusts, *certified), ("--address", server.address)):
        code, line = await failing(*lacking)
        assert code == 3
        assert re.search("; (if the server encrypts, add --tls|.*--server-name sets the name)", line)


async def test_a_port_for_http_is_named() -> None:
    async with await asyncio.start_server(_answer_http, "127.0.0.1", 0) as server:
        address = "{}:{}".format(*server.sockets[0].getsockname())
        code, line = await failing("--address", address)
    assert code == Exit.UNAVAILABLE
    assert "; that is an HTTP port; --address or INDEX_GRPC_ADDRESS must name the server's port for gRPC" in line


async def _answer_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n")
    writer.close()


async def test_a_key_is_sent_if_the_server_requires_one(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = CliRunner().invoke(main, ["keys", "new", "probe", "--file", str(keys)]).stdout.strip()
    async with fake_server(api_keys_file=keys, open_health=False) as server:
        assert await probe(INDEX_GRPC_ADDRESS=server.address, INDEX_GRPC_API_KEY=key) == SERVING
        code, _ = await failing("--address", server.address)
    assert code == Exit.REFUSED


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--timeout", "nan"], "--timeout is nan"),
        (["--timeout", "0"], "0.0 is not in the range"),
        (["--cert", __file__], "--cert and --key go together; give both"),
        (["--server-name", "x"], "--server-name goes with --tls, --ca or --cert; add one"),
        (["--ca", "nowhere.pem"], "File 'nowhere.pem' does not exist."),
        (["--api-key", "a\n"], "--api-key holds '\\n' at character 1; allowed are printable ASCII characters"),
        (["--api-key", "密"], "--api-key holds '\\u5bc6' at character 0; allowed are printable ASCII characters"),
        (["--tls", "--server-name", "\udcff"], "--server-name holds '\\udcff' at character 0; allowed are printable"),
        (["--service", "a\udcff"], "--service holds '\\udcff' at character 1, which is not UTF-8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_a_wrong_command_line(arguments: list[str], error: str) -> None:
    code, line = await failing(*arguments)
    assert code == 2
    assert error in line


async def test_it_imports_little() -> None:
    program = (
        "import sys; from index_grpc.cli import main\n"
        "try: main(['health'])\n"
        "finally: print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    async with fake_server() as server:
        environment = os.environ | {"INDEX_GRPC_ADDRESS": server.address}
        command = [sys.executable, "-c", program]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment)
    assert done.stdout == "SERVING\n"
    imported = set(done.stderr.splitlines())
    assert "grpc" in imported
    assert not imported & HEAVY
    assert {name for name in imported if name.startswith("index_grpc.")} == {
        "index_grpc.cli",
        "index_grpc.commands",
        "index_grpc.commands.health",
    }


async def test_as_a_container_runs_it() -> None:
    async with fake_server() as server:
        command = [INDEX_GRPC, "health", "--address", server.address]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == SERVING


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.0.0.1:99999",
        "unixhost:99999",
        "127.0.0.1:",
        ":1",
        "a b",
        "",
        "::1",
        "::1:1",
        "a:" + "1" * 5000,
        "unix:",
        "unix-abstract:",
        "ipv4:1.2.3.4:99999,1.2.3.4:1",
        "ipv4:1.2.3.4:1,",
        "ipv4:1",
        "ipv4:dns:a:1",
        "ipv4:localhost:1",
        "ipv4:[::1]:1",
        "ipv6:127.0.0.1:1",
        "dns:1",
        "a:1,b:1",
        "\udcff:1",
    ],
)
def test_an_invalid_address(address: str) -> None:
    result = CliRunner().invoke(main, ["health", "--address", address])
    assert result.exit_code == 2
    assert "it should be host:port or unix:PATH" in result.stderr
