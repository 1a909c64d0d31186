"""How `index-grpc serve` ends: by a signal, at any time."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.server.lifetime import ECHO_SECONDS
from index_grpc.server.supervisor import LONGEST_STEP_SECONDS
from tests.process import INDEX_GRPC, no_traceback, running, serving
from tests.server.asking import seeded

NEVER = "3600"
STUCK = (("x-request-id", "stuck"),)


def test_sigterm_drains_completes_the_open_stream_and_exits_with_0(checkpoint: Path) -> None:
    settings = {"INDEX_GRPC_PORT": "0", "INDEX_GRPC_MAX_SEQUENCES": "3", "INDEX_GRPC_DRAIN_DELAY_SECONDS": "0"}
    with serving("--model", str(checkpoint), "--device", "cpu", **settings) as process:
        with grpc.insecure_channel(process.address()) as channel:
            stub = ChatServiceStub(channel)
            assert stub.GetModel(pb.GetModelRequest()).max_sequences == 3
            stream: Any = stub.ChatStream(seeded("Hi", seed=1, max_tokens=450), timeout=60)
            first = next(stream)
            process.send(signal.SIGTERM)
            last = [first, *stream][-1]
            assert last.finish.usage.completion_tokens == last.finish.usage.total_tokens - first.start.prompt_tokens
        assert process.exit_code() == 0
    steps = [
        "listening on 127.0.0.1:",
        "ready in ",
        "received SIGTERM",
        "draining: NOT_SERVING",
        "completing 1 ",
    ]
    steps += ["method=ChatStream code=OK", "stopped"]
    places = [next(place for place, line in enumerate(process.lines) if step in line) for step in steps]
    assert places == sorted(places)
    assert no_traceback(process.lines)


@pytest.mark.usefixtures("default_signal_handlers")
def test_a_closed_terminal_makes_the_server_drain(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--port", "0", "--drain-delay-seconds", "0") as process:
        process.address()
        process.send(signal.SIGHUP)
        assert process.exit_code() == 0
    assert any("received SIGHUP" in line for line in process.lines)
    assert no_traceback(process.lines)


def test_a_script_that_started_it_can_interrupt_it(checkpoint: Path) -> None:
    """A shell makes background processes ignore SIGINT."""
    with running("sh", "-c", f"{INDEX_GRPC} serve --model {checkpoint} --port 0 & wait") as process:
        process.address()
        (server,) = process.children
        server.send_signal(signal.SIGINT)
        assert process.exit_code() == 0
    assert no_traceback(process.lines)


def test_under_nohup_it_goes_on(checkpoint: Path) -> None:
    command = (INDEX_GRPC, "serve", "--model", str(checkpoint), "--port", "0")
    with running("nohup", *command) as process:
        with grpc.insecure_channel(process.address()) as channel:
            process.send(signal.SIGHUP)
            assert ChatServiceStub(channel).Chat(seeded("Hi", seed=1, max_tokens=5)).response
        process.send(signal.SIGINT)
        assert process.exit_code() == 0
    assert not any("SIGHUP" in line for line in process.lines)


def test_the_numbers_of_closed_standard_streams_are_not_reused(checkpoint: Path) -> None:
    """Otherwise a socket could get their numbers and be taken for one of them at the end."""
    command = f"exec {INDEX_GRPC} serve --model {checkpoint} --port 0 <&- >&-"
    with running("sh", "-c", command) as process:
        with grpc.insecure_channel(process.address()) as channel:
            assert ChatServiceStub(channel).Chat(seeded("Hi", seed=1, max_tokens=5)).response
        process.send(signal.SIGINT)
        assert process.exit_code() == 0


def test_a_second_signal_ends_at_once(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--port", "0", "--drain-delay-seconds", NEVER) as process:
        process.address()
        process.send(signal.SIGTERM)
        process.wait_for("draining: NOT_SERVING")
        process.send(signal.SIGINT)
        assert process.exit_code() == 0
    assert any("received SIGINT; stopping at once" in line for line in process.lines)
    assert no_traceback(process.lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_process_ends_changes_nothing(checkpoint: Path, number: signal.Signals) -> None:
    """Programs like make send a signal to the whole process group once more."""
    with serving("--model", str(checkpoint), "--port", "0", "--drain-delay-seconds", "0") as process:
        process.address()
        process.send(number)
        process.wait_for("stopped")
        for _ in range(100):  # one of them arrives when the event loop has ended
            process.send(number)
            time.sleep(0.005)
        assert process.exit_code() == 0


def test_ctrl_c_skips_the_delay_before_the_drain(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--port", "0", "--drain-delay-seconds", NEVER) as process:
        process.address()
        process.send(signal.SIGINT)
        assert process.exit_code() == 0
    assert no_traceback(process.lines)


@pytest.mark.usefixtures("default_signal_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_imports_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    """The process handles the signal itself, since the first process of a container has no default handlers."""
    begun, slow = tmp_path / "begun", tmp_path / "click.py"
    os.mkfifo(begun)
    slow.write_text(f"open({str(begun)!r}, 'w').close()\nimport time\nwhile True:\n    time.sleep(1)\n")
    with serving("--port", "0", PYTHONPATH=str(tmp_path)) as process:
        begun.read_text()  # waits until the other process writes
        process.send(number)
        assert process.exit_code() == 0
    assert no_traceback(process.lines)


def test_ctrl_c_while_loading_ends_it_promptly(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--port", "0", "--drain-delay-seconds", NEVER) as process:
        process.wait_for("loading .*; listening on ")
        process.send(signal.SIGINT)
        assert process.exit_code() == 0
    assert "received SIGINT while loading; stopping" in process.lines[-2]
    assert no_traceback(process.lines)


LOADS_FOREVER_IN_NATIVE_CODE = """
import sys, torch
from index_grpc import cli, loading
def load_runner(settings):
    print("loading forever", file=sys.stderr, flush=True)
    while True:
        torch.ones(300, 300) @ torch.ones(300, 300)
loading.load_runner = load_runner
cli.main(["serve", "--port", "0", "--drain-delay-seconds", "3600"])
"""


STEPS_FOREVER = """
import sys, threading
from pathlib import Path
from index_grpc import cli, launch
from tests.scripted import scripted
runner, loaded = scripted(Path(sys.argv[1]))
once = runner.launch
def stick(batch):
    if batch.spans[0].sequence.request.id == sys.argv[2]:
        print("a step without end", file=sys.stderr, flush=True)
        threading.Event().wait()
    return once(batch)
runner.launch = stick
launch.load = lambda settings: loaded
cli.main(["serve", "--port", "0", *sys.argv[3:]])
"""
"""The step of the first request with the given id never ends."""


def test_a_second_signal_waits_for_no_trial_step(checkpoint: Path) -> None:
    with running(sys.executable, "-c", STEPS_FOREVER, str(checkpoint), "warm-up") as process:
        process.wait_for("a step without end")
        process.send(signal.SIGINT)
        process.wait_for("received SIGINT while loading; stopping")
        time.sleep(2 * ECHO_SECONDS)  # a signal that comes sooner counts as a repetition of the first
        process.send(signal.SIGINT)
        assert process.exit_code(LONGEST_STEP_SECONDS / 2) == 0
    assert no_traceback(process.lines)


def test_a_second_signal_waits_for_no_step(checkpoint: Path) -> None:
    with running(sys.executable, "-c", STEPS_FOREVER, str(checkpoint), "stuck") as process:
        with grpc.insecure_channel(process.address()) as channel:
            call = ChatServiceStub(channel).Chat.future(pb.ChatRequest(prompt="Hi"), metadata=STUCK)
            process.wait_for("a step without end")
            process.send(signal.SIGINT)
            process.wait_for("completing 1 calls")
            time.sleep(2 * ECHO_SECONDS)  # a signal that comes sooner counts as a repetition of the first
            process.send(signal.SIGINT)
            assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert process.exit_code(LONGEST_STEP_SECONDS / 2) == 0
    assert no_traceback(process.lines)


DRAIN_BREAKS = """
import sys
from pathlib import Path
from index_grpc import cli, launch
from index_grpc.server.app import App
from tests.scripted import scripted
async def drain(app, delay_seconds):
    raise RuntimeError("the drain broke")
App.drain = drain
launch.load = lambda settings: scripted(Path(sys.argv[1]))[1]
cli.main(["serve", "--port", "0"])
"""


def test_a_drain_that_raises_ends_with_exit_code_1(checkpoint: Path) -> None:
    with running(sys.executable, "-c", DRAIN_BREAKS, str(checkpoint)) as process:
        process.address()
        process.send(signal.SIGTERM)
        assert process.exit_code() == 1
    assert any("the drain broke" in line for line in process.lines)


def test_a_stuck_engine_ends_the_server_with_an_error(checkpoint: Path) -> None:
    command = (sys.executable, "-c", STEPS_FOREVER, str(checkpoint), "stuck", "--step-timeout-seconds", "1")
    with running(*command) as process:
        with grpc.insecure_channel(process.address()) as channel:
            call = ChatServiceStub(channel).Chat.future(pb.ChatRequest(prompt="Hi"), metadata=STUCK)
            assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert process.exit_code(LONGEST_STEP_SECONDS / 2) == 1
    assert process.lines[-1] == "error: the engine broke; see the log above"
    assert no_traceback(process.lines[:-1])


def test_sigterm_while_native_code_loads_does_not_crash() -> None:
    with running(sys.executable, "-c", LOADS_FOREVER_IN_NATIVE_CODE) as process:
        process.wait_for("loading forever")
        process.send(signal.SIGTERM)
        assert process.exit_code() == 0
    assert "received SIGTERM while loading; stopping" in process.lines[-2]


def test_the_engines_process_does_not_outlive_a_killed_server(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--port", "0", "--engine-process") as process:
        process.address()
        (child,) = process.children
        process.send(signal.SIGKILL)
        child.wait(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_with_an_engines_process_ends_in_order(checkpoint: Path, number: signal.Signals) -> None:
    arguments = ["--model", str(checkpoint), "--port", "0", "--engine-process", "--drain-delay-seconds", "0"]
    with serving(*arguments) as process:
        process.address()
        (child,) = process.children
        process.send(number)
        assert process.exit_code() == 0
        child.wait(timeout=30)
    assert process.lines[-1].endswith("stopped")
    assert no_traceback(process.lines)
