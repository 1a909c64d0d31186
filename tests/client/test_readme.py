"""The README's examples run."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from index_grpc_client.cli.commands import index_client

from .fake_server import TEXT, FakeServer

README = Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md"
PAGE = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.rpartition("| ")[2].partition(" && ")[0]
    for language, code in BLOCKS
    if language == "sh"
    for line in code.splitlines()
    if "index-client " in line
]


@pytest.mark.parametrize("code", PYTHON)
def test_python(code: str, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code.replace("127.0.0.1:50051", server.address), README, "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert TEXT in out or "my-call" in out
    assert [line for line in out.splitlines() if TEXT in line and line != TEXT] == []  # each answer has its own


def test_links_work_on_a_package_index_too() -> None:
    """There the page stands without the repository around it."""
    assert re.findall(r"\]\((?!https://)[^)]*\)", PAGE) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, server: FakeServer) -> None:
    runner = CliRunner(env={"INDEX_GRPC_ADDRESS": server.address})
    result = runner.invoke(index_client, shlex.split(command)[1:], input="text\n", catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert result.stdout
