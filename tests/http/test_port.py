"""The HTTP port opens and closes with the server's process."""

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from index_grpc_client.cli.commands import index_client

from index_grpc.launch import extra_ports
from tests.certificates import authority, issued
from tests.conftest import settings
from tests.http.asking import client
from tests.process import no_traceback, serving
from tests.server.fake_runner import fake_server


def test_a_process_with_both_ports() -> None:
    with serving("--port", "0", "--http-port", "0") as process:
        url = process.wait_for(r"listening on (http://\S+)")[1]
        process.address()
        answer = requests.post(url, json={"prompt": "你好"}).json()
        assert answer["status"] == 200
        process.wait_for(r"method=/ code=OK finish=")
        process.send(signal.SIGINT)
        assert process.exit_code() == 0
        assert no_traceback(process.lines)
        with pytest.raises(requests.ConnectionError):
            requests.post(url, json={"prompt": "你好"})


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving("--port", "0", "--http-port", str(port)) as process:
            assert process.exit_code(60) == 1
        told = f"error: cannot listen on 127.0.0.1:{port} for HTTP: another program listens there; "
        assert process.lines[-1].startswith(told)
        assert no_traceback(process.lines)


def test_a_host_needs_a_port() -> None:
    with serving("--port", "0", "--http-host", "127.0.0.1") as process:
        assert process.exit_code(60) == 2
    assert process.lines[-1] == "error: --http-host goes with --http-port; add it"


def test_without_the_extra_it_says_how_to_get_it() -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from index_grpc.cli import main; main(['serve', '--port', '0', '--http-port', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    expected = "error: --http-port needs the extra http (uvicorn is missing); install it with  pip install"
    assert done.stderr.splitlines()[-1].startswith(expected)


def test_it_is_off_unless_asked_for() -> None:
    assert extra_ports(settings("demo")) == []
    program = "import sys, index_grpc.launch, index_grpc.server.app; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"uvicorn", "starlette", "index_grpc.http"} & set(done.stdout.splitlines())


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_all_addresses_include_ipv4_and_ipv6() -> None:
    async with fake_server(http_port=0, http_host="[::]") as server:
        port = server.app.ports[0].address.rpartition(":")[2]
        assert server.app.ports[0].address == f"[::]:{port}"
        async with client(server.app) as http:
            for host in ("127.0.0.1", "[::1]"):
                assert (await http.get(f"http://{host}:{port}/health")).status_code == 200


@pytest.mark.parametrize("command", [["ask", "Hi"], ["health"]], ids=lambda command: command[0])
async def test_the_client_for_grpc_says_that_it_is_http(tmp_path: Path, command: list[str]) -> None:
    pair = issued(authority(tmp_path / "ca.pem"), tmp_path, "server", "127.0.0.1")
    encrypted: dict[str, Any] = {"tls_cert": pair.cert, "tls_key": pair.key}
    for changes, words in (({}, []), (encrypted, ["--ca", str(tmp_path / "ca.pem")])):
        async with fake_server(http_port=0, **changes) as server:
            words = ["--address", server.app.ports[0].address, *words, *command]
            result = await asyncio.to_thread(CliRunner().invoke, index_client, words)
        assert result.exit_code == 3
        told = "hint: that is an HTTP port; --address or INDEX_GRPC_ADDRESS must name the server's port for gRPC"
        assert result.stderr.splitlines()[-1] == told
