"""The command line as a process: signals, pipes, colours, and what it needs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import index_client
import pytest
from index_grpc_client.v1.chat_pb2 import ChatRequest

from .fake_server import TEXT, FakeServer

Start = Callable[..., "subprocess.Popen[str]"]
PROGRAM = [sys.executable, "-m", "index_client"]


@pytest.fixture
def start(server: FakeServer) -> Start:
    """Starts the command line against the server."""

    def start(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
        inherited = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        env = inherited | {"INDEX_GRPC_ADDRESS": server.address} | variables
        pipe = subprocess.PIPE
        return subprocess.Popen([*PROGRAM, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)

    return start


def test_it_runs(start: Start) -> None:
    with start("ask", "Hi", PYTHONIOENCODING="utf-8") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, TEXT + "\n", "")


@pytest.mark.usefixtures("default_signal_handlers")
def test_ctrl_c_cancels_the_call(start: Start, server: FakeServer) -> None:
    server.script.hold_after = 1
    with start("ask", "Hi") as process:
        assert process.stdout
        assert process.stdout.read(5) == "Hello"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "\n", "")
    assert server.script.left.wait(30), "the server was left at work"


LINGERING = """
import time
from index_grpc_client import AsyncClient
def linger(client):
    print("leaving", flush=True)
    while True:
        time.sleep(0.1)  # not signal.pause, which would wait for ever if the signal came just before it
AsyncClient.__del__ = linger  # gRPC waits for its threads where a channel is freed
import index_client
index_client.main()
"""


@pytest.mark.usefixtures("default_signal_handlers")
@pytest.mark.parametrize("command", ["ask", "chat"])
def test_a_second_ctrl_c_ends_it_at_once(server: FakeServer, command: str) -> None:
    server.script.hold_after = 1
    words, pipe = [sys.executable, "-c", LINGERING, "--address", server.address, command], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin
        process.stdin.write("Hi\n")
        process.stdin.close()
        assert process.stdout
        assert process.stdout.read(5) == "Hello"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "\n"
        assert process.stdout.readline() == "leaving\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr
        assert (process.wait(60), process.stderr.read()) == (130, "")


@pytest.mark.usefixtures("default_signal_handlers")
def test_ctrl_c_ends_a_conversation_from_a_pipe(start: Start, server: FakeServer) -> None:
    server.script.hold_after = 1
    with start("chat") as process:
        assert process.stdin
        process.stdin.write("one\ntwo\n")
        process.stdin.flush()
        assert process.stdout
        assert process.stdout.read(5) == "Hello"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert [request.prompt for request in server.script.requests if isinstance(request, ChatRequest)] == ["one"]


@pytest.mark.parametrize("command", ["chat", "ask", "count -"])
@pytest.mark.parametrize(("source", "why"), [("<&-", "is closed; leave"), ("0>/dev/null", "cannot be read: Bad file")])
def test_no_standard_input_is_one_error(server: FakeServer, command: str, source: str, why: str) -> None:
    line = f"exec {' '.join(PROGRAM)} --address {server.address} {command} {source}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
    assert done.stderr.startswith(f"error: standard input {why}")


def test_characters_that_the_locale_lacks_are_printed_as_question_marks(start: Start) -> None:
    """JSON output still has all characters."""
    with start("ask", "Hi", PYTHONIOENCODING="latin-1") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, TEXT.replace("世界", "??") + "\n", "")
    with start("ask", "--json", "Hi", PYTHONIOENCODING="latin-1") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["text"], err) == (0, TEXT, "")


def test_a_reader_that_leaves_is_no_error(start: Start, server: FakeServer) -> None:
    server.script.words = ("x" * 70_000,) * 20
    server.script.context_length = 10_000_000
    with start("ask", "Hi") as process:
        assert process.stdout
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["ask", "Hi"], ["--version"], ["ask", "--help"]])
def test_output_that_cannot_be_written_is_one_error(server: FakeServer, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [*PROGRAM, "--address", server.address, *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "code"), [(["--colour"], 2), (["--address", "unix:/nowhere", "--timeout", "30", "model"], 3)]
)
def test_where_errors_cannot_be_written_the_exit_code_tells(arguments: list[str], code: int) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=full, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, b"")


@pytest.mark.parametrize("command", ["ask Hi", "ask --json Hi", "chat", "count Hi", "model"])
def test_nothing_is_asked_where_no_answer_can_be_written(server: FakeServer, command: str) -> None:
    line = f"echo Hi | exec {' '.join(PROGRAM)} --address {server.address} {command} >&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
    assert done.stderr.startswith("error: standard output is closed; leave it open, since answers are written to it\n")
    assert server.script.requests == []


def test_the_exit_code_of_health_needs_no_output(server: FakeServer) -> None:
    line = f"exec {' '.join(PROGRAM)} --address {server.address} health >&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


BROKEN = """
import index_client
import index_grpc_client
def broken(*_):
    raise {error}("a bug of ours")
index_grpc_client.{kind}.from_wire = broken
index_client.main()
"""


KINDS = [("model", "ModelInfo"), ("count", "TokenCount"), ("ask", "Chunk"), ("chat", "Chunk")]


@pytest.mark.parametrize(("command", "kind"), KINDS)
@pytest.mark.parametrize("error", ["ValueError", "OSError"])
def test_our_own_bugs_are_not_reported_as_somebody_elses(
    server: FakeServer, command: str, kind: str, error: str
) -> None:
    code = BROKEN.format(kind=kind, error=error)
    words = [sys.executable, "-c", code, "--address", server.address, command]
    done = subprocess.run(words, input="Hi", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{error}: a bug of ours"


def test_a_file_that_cannot_be_read_is_not_reported_as_an_output_error(server: FakeServer) -> None:
    unreadable = "/proc/self/mem"  # even by root
    command = [*PROGRAM, "--address", server.address, "--ca", unreadable, "ask", "Hi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: a file of --ca, --cert or --key cannot be read: "), done.stderr


def test_a_server_that_stops_leaves_one_error(start: Start, server: FakeServer) -> None:
    server.script.hold_after = 1
    with start("ask", "Hi") as process:
        assert process.stdout
        assert process.stdout.read(5) == "Hello"
        server.stop()
        out, err = process.communicate(timeout=60)
    assert process.returncode in (1, 3)
    assert out == "\n"
    assert err.startswith("error: the answer was cut off: "), err
    assert err.splitlines()[1] == "hint: the server stopped or the connection was lost; ask again"


@pytest.mark.parametrize("arguments", [("--address", ""), ("--address", "ipv4:1.2.3:1"), ("--api-key", "ké")])
def test_grpc_itself_says_nothing(start: Start, arguments: tuple[str, str]) -> None:
    with start(*arguments, "model") as process:
        _, err = process.communicate(timeout=60)
    words = [line.partition(":")[0] for line in err.splitlines()]
    assert (process.returncode, words) in [(2, ["error", "hint"]), (1, ["error"])], err


def test_no_colours_in_pipes(start: Start) -> None:
    with start("nothing") as process:
        _, err = process.communicate(timeout=60)
    assert "\x1b" not in err


@pytest.mark.parametrize("missing", ["click", "prompt_toolkit"])
def test_without_the_extra_it_says_so(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; sys.stdin.isatty = lambda: True\nimport index_client"
    code += "\nindex_client.main()"
    run = subprocess.run([sys.executable, "-c", code, "chat"], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    expected = f"error: index-client needs {missing}: pip install 'index-grpc-client[cli]'\n"
    assert run.stderr.endswith(expected)
    assert "Traceback" not in run.stderr


def test_help_does_not_load_the_editor() -> None:
    code = "import sys\nfrom index_grpc_client.cli.commands import index_client\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "prompt_toolkit" not in loaded.stdout.split()


def test_ctrl_c_while_it_still_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "index_grpc_client.cli.commands", Interrupted("commands"))
    with pytest.raises(SystemExit) as ended:
        index_client.main()
    assert ended.value.code == 130
