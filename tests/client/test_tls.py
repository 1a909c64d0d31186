"""Encryption with a certificate of one's own."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from index_grpc_client import AsyncClient, Client, UnavailableError
from index_grpc_client.cli.commands import index_client

from .fake_server import TEXT, FakeServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `cert.pem` and `key.pem`, good for the loopback."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("needs openssl to make a certificate")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return folder


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[FakeServer]:
    pair = ((certificate / "key.pem").read_bytes(), (certificate / "cert.pem").read_bytes())
    server = FakeServer(grpc.ssl_server_credentials([pair]))
    yield server
    server.stop()


async def test_given_credentials_are_used(tls_server: FakeServer, certificate: Path) -> None:
    credentials = grpc.ssl_channel_credentials((certificate / "cert.pem").read_bytes())
    with Client(tls_server.address, credentials=credentials, api_key="secret") as client:
        assert client.chat("Hi").text == TEXT
    async with AsyncClient(tls_server.address, credentials=credentials) as async_client:
        assert (await async_client.chat("Hi")).text == TEXT
    assert tls_server.script.metadata[0]["authorization"] == "Bearer secret"


def test_tls_trusts_the_system_only(tls_server: FakeServer) -> None:
    with Client(tls_server.address, tls=True, timeout=5) as client, pytest.raises(UnavailableError):
        client.chat("Hi")


def test_the_command_line_trusts_a_file(tls_server: FakeServer, certificate: Path) -> None:
    runner = CliRunner(env={"INDEX_GRPC_ADDRESS": tls_server.address})
    result = runner.invoke(index_client, ["--ca", str(certificate / "cert.pem"), "ask", "Hi"], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, TEXT + "\n")
