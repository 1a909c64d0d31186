"""Encryption with a certificate of a private authority, and with client certificates."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner, Result
from index_grpc_client import AsyncClient, Client, DeadlineError, UnavailableError, tls_credentials
from index_grpc_client.cli.commands import index_client

from tests.certificates import Pair, authority, issued

from .fake_server import TEXT, FakeServer


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    return authority(tmp_path / "ca.pem")


@pytest.fixture
def pair(ca: trustme.CA, tmp_path: Path) -> Pair:
    return issued(ca, tmp_path, "server", "127.0.0.1")


@pytest.fixture
def tls_server(pair: Pair) -> Iterator[FakeServer]:
    server = FakeServer(grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())]))
    yield server
    server.stop()


@pytest.fixture
def mutual_tls_server(ca: trustme.CA, pair: Pair) -> Iterator[FakeServer]:
    """A server that requires client certificates."""
    files = [(pair.key.read_bytes(), pair.cert.read_bytes())]
    server = FakeServer(grpc.ssl_server_credentials(files, ca.cert_pem.bytes(), require_client_auth=True))
    yield server
    server.stop()


def run(server: FakeServer, *arguments: str | Path) -> Result:
    runner = CliRunner(env={"INDEX_GRPC_ADDRESS": server.address})
    return runner.invoke(index_client, [str(argument) for argument in arguments], catch_exceptions=False)


async def test_given_credentials_are_used(tls_server: FakeServer, pair: Pair) -> None:
    credentials = tls_credentials(pair.cert)  # trusting the server's own certificate is enough
    with Client(tls_server.address, credentials=credentials, api_key="secret") as client:
        assert client.chat("Hi").text == TEXT
    async with AsyncClient(tls_server.address, credentials=credentials) as async_client:
        assert (await async_client.chat("Hi")).text == TEXT
    assert tls_server.script.metadata[0]["authorization"] == "Bearer secret"


def test_tls_trusts_the_system_only(tls_server: FakeServer) -> None:
    with Client(tls_server.address, tls=True, timeout=5) as client, pytest.raises(UnavailableError):
        client.chat("Hi")


def test_the_command_line_trusts_a_file(tls_server: FakeServer, tmp_path: Path) -> None:
    for command in (("ask", "Hi"), ("health",), ("health", "--wait", "60")):
        result = run(tls_server, "--ca", tmp_path / "ca.pem", *command)
        assert (result.exit_code, result.stdout) == (0, f"{TEXT if command[0] == 'ask' else 'SERVING'}\n")


def test_the_command_line_takes_another_name_than_the_address(ca: trustme.CA, tmp_path: Path) -> None:
    named = issued(ca, tmp_path, "named", "index-grpc")
    server = FakeServer(grpc.ssl_server_credentials([(named.key.read_bytes(), named.cert.read_bytes())]))
    try:
        trust = ("--ca", tmp_path / "ca.pem", "--timeout", "5")
        result = run(server, *trust, "--server-name", "index-grpc", "ask", "Hi")
        assert (result.exit_code, result.stdout) == (0, f"{TEXT}\n")
        result = run(server, *trust, "ask", "Hi")
        assert result.exit_code == 3
        assert "--server-name" in result.stderr.splitlines()[1]
    finally:
        server.stop()


def test_the_command_line_shows_a_certificate(mutual_tls_server: FakeServer, ca: trustme.CA, tmp_path: Path) -> None:
    mine, trust = issued(ca, tmp_path, "mine", "caller"), ("--ca", tmp_path / "ca.pem")
    result = run(mutual_tls_server, *trust, "--cert", mine.cert, "--key", mine.key, "ask", "Hi")
    assert (result.exit_code, result.stdout) == (0, f"{TEXT}\n")
    result = run(mutual_tls_server, *trust, "health")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[1].endswith("if it asks for a certificate, add --cert and --key")
    result = run(mutual_tls_server, *trust, "--cert", mine.cert, "health")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --cert and --key go together; give both")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([], "if the server encrypts, add --tls or --ca"),
        (["--tls"], "the server's certificate is not trusted; --ca names"),
        (["--ca", "nonsense"], "must be PEM"),
    ],
)
def test_why_no_connection_is_made(tls_server: FakeServer, tmp_path: Path, options: list[str], hint: str) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    result = run(tls_server, *(tmp_path / word if word == "nonsense" else word for word in options), "health")
    assert result.exit_code == 3
    assert hint in result.stderr.splitlines()[1]


def test_encrypting_to_a_server_that_does_not(server: FakeServer) -> None:
    result = run(server, "--tls", "health")
    assert result.exit_code == 3
    assert "the server does not encrypt" in result.stderr.splitlines()[1]


def test_a_certificate_for_another_host(ca: trustme.CA, tmp_path: Path) -> None:
    pair = issued(ca, tmp_path, "server", "example.org")
    server = FakeServer(grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())]))
    result = run(server, "--ca", tmp_path / "ca.pem", "health")
    server.stop()
    assert result.exit_code == 3
    assert "for another host name" in result.stderr.splitlines()[1]


@pytest.mark.parametrize("encrypts", [False, True])
def test_waiting_in_vain_for_a_server_that_asks_for_more_names_the_credentials(
    mutual_tls_server: FakeServer, pair: Pair, encrypts: bool
) -> None:
    credentials = tls_credentials(pair.cert) if encrypts else None
    with (
        Client(mutual_tls_server.address, credentials=credentials) as client,
        pytest.raises(DeadlineError, match="; start it, correct the address or the credentials, or allow more time"),
    ):
        client.wait_until_ready(2)
