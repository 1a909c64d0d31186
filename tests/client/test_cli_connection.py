"""The command line's options that say which server to call, and what it says where none can be reached."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from index_grpc_client import UnavailableError
from index_grpc_client.cli.failure import Call, hint

from .fake_server import TEXT, FakeServer, Script

Run = Callable[..., Result]


def hint_at(address: str) -> str | None:
    """Returns the hint where nobody listens at the address."""
    return hint(UnavailableError("connection refused"), Call(address, 1, generates=False))


def test_an_unreachable_server_is_one_error_with_a_hint(run: Run, server: FakeServer) -> None:
    server.stop()
    result = run("model")
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines)) == (3, 2)
    assert lines[0].startswith(f"error: {server.address} cannot be reached: ")
    assert lines[1].startswith(f"hint: is a server running at {server.address}?")


@pytest.mark.parametrize("command", ["ask", "chat", "count", "health", "model"])
def test_a_server_that_says_nothing(run: Run, silent: str, command: str) -> None:
    result = run(command, "--address", silent, "--timeout", "0.5", stdin="Hi\n")
    shorter = ", or ask for a shorter answer with --max-tokens" if command in ("ask", "chat") else ""
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.splitlines() == [
        f"error: {silent} did not answer within 0.5 s",
        f"hint: allow more time with --timeout{shorter}",
    ]


def test_an_answer_that_takes_too_long(run: Run, server: FakeServer, script: Script) -> None:
    script.hold_after = 2
    result = run("ask", "Hi", "--timeout", "2")
    assert (result.exit_code, result.stdout) == (4, "Hello, \n")
    assert result.stderr.startswith(f"error: {server.address} did not finish its answer within 2 s\n")


@pytest.mark.parametrize(
    ("address", "has_port"),
    [("localhost", False), ("::1", False), ("[::1]", False), ("[::1]:1", True), ("a:1", True), ("unix:/run/a", True)],
)
def test_an_address_without_a_port(address: str, has_port: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    missing = "the address has no port, so port 443 was used; --address HOST:PORT sets another port"
    there = f"is a server running at {address}? --address or INDEX_GRPC_ADDRESS names another"
    assert hint_at(address) == (there if has_port else missing)


def test_the_hint_names_a_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("grpc_proxy", raising=False)
    found = hint_at("a:1")
    assert found == "http_proxy is set, so gRPC connects through that proxy; with no_proxy=a it connects directly"
    for address in ("127.0.0.1:1", "unix:/run/a"):
        assert str(hint_at(address)).startswith("is a server running at")


def test_a_timeout_may_be_far_away(run: Run) -> None:
    for timeout in ("1e300", "9.2e9", "inf"):
        assert run("--timeout", timeout, "ask", "Hi").stdout == f"{TEXT}\n"


def test_the_api_key_is_sent(run: Run, script: Script) -> None:
    run("--api-key", "secret", "model")
    assert script.metadata[0]["authorization"] == "Bearer secret"


COMMANDS = [("ask", "Hi"), ("chat",), ("count", "Hi"), ("health",), ("model",)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_connection_options_may_come_before_or_after_the_command(
    run: Run, server: FakeServer, script: Script, command: tuple[str, ...]
) -> None:
    elsewhere, here = ("--address", "127.0.0.1:1"), ("--address", server.address, "--timeout", "5")
    for arguments in ((*here, *command), (*command, *here), (*elsewhere, "--api-key", "k", *command, *here)):
        assert run(*arguments, stdin="Hi\n").exit_code == 0, arguments
    if command != ("health",):
        assert script.metadata[-1]["authorization"] == "Bearer k", (
            "what is not given behind the command counts from before"
        )
    assert run(command[0], "--help").stdout.count("--address TEXT") == 1


def test_errors_name_the_address_given_after_the_command(run: Run) -> None:
    result = run("model", "--address", "127.0.0.1:1", "--timeout", "5")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: 127.0.0.1:1 cannot be reached: ")
    assert "at 127.0.0.1:1? --address or" in result.stderr


def test_a_value_that_is_overridden_is_not_checked(run: Run, server: FakeServer) -> None:
    wrong, here = {"INDEX_GRPC_ADDRESS": "foo:bar", "INDEX_GRPC_API_KEY": "ké"}, ("--address", server.address)
    for arguments in (("model", *here), (*here, "model"), ("--address", "foo:bar", "model", *here)):
        assert run(*arguments, "--api-key", "k", env=wrong).exit_code == 0, arguments


def test_a_mistake_names_where_it_was_made(run: Run, server: FakeServer) -> None:
    address, key = {"INDEX_GRPC_ADDRESS": "foo:bar"}, {"INDEX_GRPC_API_KEY": "ké"}
    for arguments, env, name in (
        (("model",), address, "INDEX_GRPC_ADDRESS is 'foo:bar'"),
        (("--address", "foo:baz", "model"), address, "--address is 'foo:baz'"),
        (("model", "--address", "foo:baz"), address, "--address is 'foo:baz'"),
        (("--address", server.address, "model", "--address", "foo:baz"), address, "--address is 'foo:baz'"),
        (("model",), key, "INDEX_GRPC_API_KEY holds"),
    ):
        result = run(*arguments, env=env)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {name}"), arguments


def test_a_certificate_file_turns_encryption_on(run: Run, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("no certificate")
    assert run("--ca", str(ca), "--timeout", "5", "model").exit_code == 3, "a server in the clear was talked to"
