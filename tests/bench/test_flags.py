"""Flags that are refused before any request is made."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from index_grpc.bench.command import bench
from index_grpc.bench.plan import Mode, Plan
from index_grpc.cli import main
from tests.scripted import CONTEXT_LENGTH

from .conftest import Run

NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--concurrency 1,x", "'1,x' is no list of whole numbers, such as 1,4,16"),
        ("--concurrency 1.5", "'1.5' is no list of whole numbers"),
        ("--concurrency 4,1,4", "names a number twice"),
        ("--concurrency 4,0", "0 is in it; each is above 0 and at most 4096"),
        ("--rate 1,nan", "nan is in it"),
        ("--rate 1 --concurrency 2", "--rate is the open loop, --concurrency and --turns are the closed one"),
        ("--rate 1 --turns 2", "leave one out"),
        ("--duration 5", "--duration goes with --rate"),
        ("--rate 1 --duration 5 --requests 9", "--duration and --requests both bound a level"),
        ("--temperature nan", "nan is no number"),
        (f"--cert {__file__}", "--cert and --key go together; give both"),
        ("--server-name x", "--server-name goes with --tls, --ca or --cert; add one"),
        ("--tls --server-name é", "--server-name holds '\\xe9' at character 0; allowed are printable ASCII characters"),
        ("--turns 1", "1 is not in the range"),
        ("--plot picture.txt", "'picture.txt' does not end in one of .png, .svg, .pdf"),
        ("--plot /nowhere/picture.png", "there is no directory /nowhere"),
    ],
)
def test_a_bad_flag(arguments: str, error: str) -> None:
    result = CliRunner().invoke(bench, ["--address", NOWHERE, *arguments.split()])
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr


@pytest.mark.parametrize(
    ("flag", "value", "error"),
    [
        ("--address", "127.0.0.1:99999", "--address is '127.0.0.1:99999', which has the port 99999"),
        ("--address", "foo:bar", "--address is 'foo:bar', which has the port bar; allowed is 1 to 65535"),
        ("--address", "", "--address is '', which names no host; allowed is host:port or unix:PATH"),
        ("--api-key", "密", "--api-key holds '\\u5bc6' at character 0; allowed are printable ASCII characters"),
        ("--api-key", "a\n", "--api-key holds '\\n' at character 1; allowed are printable ASCII characters"),
    ],
)
def test_an_address_or_a_key_that_cannot_be_right(flag: str, value: str, error: str) -> None:
    result = CliRunner().invoke(main, ["bench", flag, value])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {error}")


def test_a_prompt_beyond_the_context(run: Run) -> None:
    result, _ = run("--prompt-tokens", str(CONTEXT_LENGTH))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--prompt-tokens is {CONTEXT_LENGTH}; the model's context holds {CONTEXT_LENGTH} tokens" in result.stderr


def test_a_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(bench, ["--address", NOWHERE, "--plot", str(tmp_path / "bench.png")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: --plot needs matplotlib: pip install 'index-grpc[plot]'\n"


def test_help_names_each_flag_and_says_what_is_measured() -> None:
    result = CliRunner().invoke(bench, ["--help"], terminal_width=120)
    assert result.exit_code == 0
    for param in bench.params:
        assert f"  {param.opts[0]} " in result.stdout
    assert "(last message - first) / (tokens - 1)" in result.stdout
    assert "retries are off" in result.stdout


def test_the_default_number_of_requests_follows_from_the_level() -> None:
    closed = Plan(Mode.CLOSED, (1, 32))
    assert [closed.requests(level) for level in closed.levels] == [8, 128]
    assert [closed.warmup(level) for level in closed.levels] == [1, 32]
    talks = Plan(Mode.CONVERSATIONS, (1, 4), num_turns=10)
    assert [talks.conversations(level) for level in talks.levels] == [2, 4]
    assert Plan(Mode.CONVERSATIONS, (4,), num_requests=25, num_turns=10).conversations(4) == 3


def modules(code: str) -> set[str]:
    """The modules that are imported after the code has run in a separate process."""
    code += "\nimport sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_the_command_line_imports_nothing_slow() -> None:
    imported = modules("import index_grpc.bench.command")
    assert not imported & {"torch", "grpc", "numpy", "matplotlib", "index_grpc_client"}


def test_measuring_needs_no_torch() -> None:
    imported = modules("import index_grpc.bench.run, index_grpc.bench.report, index_grpc.bench.plot")
    assert "matplotlib.figure" in imported
    assert not imported & {"torch", "transformers", "matplotlib.pyplot", "index_grpc.engine", "index_grpc.server"}
