"""Runs every command and program of the README and the manuals, as printed, against a server with the demo model."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from index_grpc.cli import main
from index_grpc.launch import load
from tests.background import BackgroundServer, background
from tests.conftest import settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/operating.md", "docs/http.md", "examples/README.md")
TEXT = "\n".join((ROOT / page).read_text() for page in PAGES)
BIN = Path(sys.executable).parent
PRINTED_ADDRESS, PRINTED_HTTP_ADDRESS = "127.0.0.1:50051", "127.0.0.1:6006"

PROGRAMS = ("make", "grpcurl", "curl", "index-client", "index-grpc")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def commands(beginning: str) -> list[str]:
    """The lines of shell blocks that contain a command, without their comments."""
    lines = [line.partition(" # ")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if re.search(rf"(^|\| ){re.escape(beginning)}", line)]


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundServer]:
    chosen = settings("demo", http_port=0)
    with background(chosen, lambda: load(chosen)) as server:
        yield server


@pytest.fixture(scope="module")
def address(server: BackgroundServer) -> str:
    return server.address


@pytest.fixture(scope="module")
def http_address(server: BackgroundServer) -> str:
    return server.app.ports[0].address


def run(command: str, address: str, given: str = "") -> str:
    """Runs a shell line with our programs on the PATH and returns its output."""
    environment = os.environ | {"INDEX_GRPC_ADDRESS": address, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, input=given, env=environment, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_shell_line_is_run_by_some_test() -> None:
    known = [line for name in PROGRAMS for line in commands(f"{name} ")]
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(known) == len(lines)


@pytest.mark.parametrize("line", commands("grpcurl "))
def test_grpcurl_lines(address: str, line: str) -> None:
    """Makes the calls with another client that, like grpcurl, gets the contract by reflection."""
    words = shlex.split(line)
    assert words[1] == "-plaintext"
    data = words[words.index("-d") + 1] if "-d" in words else "{}"
    where, what = words[-2:]
    assert where == PRINTED_ADDRESS
    curl = f"buf curl --protocol grpc --http2-prior-knowledge http://{address}"
    printed = run(f"{curl} --list-services" if what == "list" else f"{curl}/{what} -d {shlex.quote(data)}", address)
    wanted = {"list": "index.v1.ChatService", "Check": "SERVING", "Chat": "response", "ChatStream": '"finish"'}
    assert wanted[what.rpartition("/")[2]] in printed


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("line", commands("curl "))
def test_curl_lines(address: str, http_address: str, line: str) -> None:
    assert PRINTED_HTTP_ADDRESS in line
    printed = run(line.replace(PRINTED_HTTP_ADDRESS, http_address), address)
    assert '"response":"' in printed or printed.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("line", commands("index-client "))
def test_index_client_lines(address: str, line: str) -> None:
    assert run(line, address, given="你好\n").strip()


@pytest.mark.parametrize("line", commands("make "))
def test_make_lines(address: str, line: str) -> None:
    # The suite itself may run under make; with these variables this make would print more.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS")}
    command = ["make", "-n", *shlex.split(line)[1:]]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    last = shown.stdout.strip().splitlines()[-1]
    if line.startswith("make ask"):
        assert run(f"PROMPT={shlex.quote(line.partition('=')[2])}; {last.removeprefix('.venv/bin/')}", address).strip()
    else:
        assert re.match(r"\.venv/bin/(index-grpc serve|python -m pytest)", last)


@pytest.mark.parametrize("line", commands("index-grpc "))
def test_index_grpc_lines_name_flags_that_exist(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert isinstance(command.make_context(name, arguments), click.Context)


@pytest.mark.parametrize("program", blocks("python"))
def test_python_programs(address: str, http_address: str, program: str) -> None:
    moved = program.replace(PRINTED_ADDRESS, address).replace(PRINTED_HTTP_ADDRESS, http_address)
    assert moved != program
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(moved, "README.md", "exec"), {"__name__": "__main__"})
    assert ("blue" if "blue" in program else " ") in printed.getvalue()
