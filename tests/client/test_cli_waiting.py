"""`index-client health --wait`: its output, exit codes and hints."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

from tests.terminal import shown

from .fake_server import FakeServer, Script, no_access

Run = Callable[..., Result]


def test_a_server_that_serves(run: Run) -> None:
    result = run("health", "--wait", "60")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "SERVING\n", "")


def test_a_server_that_does_not_run(run: Run, server: FakeServer) -> None:
    server.stop()
    result = run("health", "--wait", "2")
    assert (result.exit_code, result.stdout) == (4, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"error: {server.address} was not ready within 2 s: it cannot be reached (")
    assert hint.startswith(f"hint: is a server running at {server.address}?")


def test_a_server_that_does_not_serve(run: Run, server: FakeServer) -> None:
    server.serve(False)
    result = run("health", "--wait", "2")
    assert (result.exit_code, result.stdout) == (4, "")
    seen = "its health is NOT_SERVING; it may be loading the model: see its log, or allow more time"
    assert result.stderr == f"error: {server.address} was not ready within 2 s: {seen}\n"


def test_a_wrong_key(run: Run, script: Script) -> None:
    script.failures.append(no_access("KEY_WRONG"))
    result = run("health", "--wait", "60")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "check the key" in result.stderr


def test_wrong_encryption(run: Run) -> None:
    result = run("health", "--wait", "60", "--tls")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "the server does not encrypt" in result.stderr


def test_an_unknown_service(run: Run) -> None:
    result = run("health", "--wait", "60", "--service", "none")
    assert (result.exit_code, result.stdout) == (1, "SERVICE_UNKNOWN\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_that_is_not_allowed(run: Run, seconds: str) -> None:
    result = run("health", "--wait", seconds)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: --wait is {seconds} s; allowed is more than 0 s")


def test_a_terminal_shows_what_is_waited_for(server: FakeServer) -> None:
    server.serve(False)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "index_client", "health", "--address", server.address, "--wait", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        assert f"waiting up to 600 s for {server.address}" in shown(ours, "Ctrl-C ends it")
        server.serve()
        assert (process.communicate(timeout=60)[0], process.returncode) == ("SERVING\n", 0)
    os.close(ours)
