"""Conversations at the terminal."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable

import grpc
import pytest
from click.testing import CliRunner, Result
from index_grpc_client import AsyncClient, AsyncConversation
from index_grpc_client.cli.chat import Dialogue, reader
from index_grpc_client.cli.commands import index_client
from index_grpc_client.cli.failure import Call, Exit
from index_grpc_client.cli.interrupt import end_at_once
from index_grpc_client.errors import InternalError
from index_grpc_client.options import AnswerOptions
from index_grpc_client.v1 import chat_pb2
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from tests.terminal import shown

from .fake_server import TEXT, Failure, FakeServer, Script

CALL = Call("", 60, generates=True)


def talk(server: FakeServer, *lines: str, arguments: Iterable[str] = ()) -> Result:
    runner = CliRunner(env={"INDEX_GRPC_ADDRESS": server.address})
    text = "".join(f"{line}\n" for line in lines)
    return runner.invoke(index_client, ["chat", *arguments], input=text, catch_exceptions=False)


def answered_prompts(script: Script) -> list[tuple[str, list[str]]]:
    """Returns the answered prompts, each with its history."""
    requests = [request for request in script.requests if isinstance(request, chat_pb2.ChatRequest)]
    return [(request.prompt, [turn.content for turn in request.history]) for request in requests]


def test_a_conversation(server: FakeServer) -> None:
    result = talk(server, "one", "", "two", "/quit now", "three", arguments=["--seed", "1"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{TEXT}\n{TEXT}\n", "")
    assert answered_prompts(server.script) == [("one", []), ("two", ["one", TEXT])]
    assert server.script.requests[-1].sampling.seed == 1


def test_new_and_system(server: FakeServer) -> None:
    talk(server, "one", "/new", "/system\tBe brief.", "two", "/system", "three")
    assert answered_prompts(server.script) == [("one", []), ("two", ["Be brief."]), ("three", ["two", TEXT])]


def test_retry_answers_the_last_prompt_anew(server: FakeServer) -> None:
    talk(server, "one", "two", "/retry", arguments=["--seed", "1"])
    assert answered_prompts(server.script)[1] == answered_prompts(server.script)[2] == ("two", ["one", TEXT])
    assert not server.script.requests[-1].sampling.HasField("seed"), "the same seed gives the same answer"
    result = talk(server, "/retry")
    assert (result.exit_code, "no prompt" in result.stderr) == (2, True)


def test_a_retry_that_fails_keeps_the_whole_history(server: FakeServer) -> None:
    """It even keeps the turn that the retry was to replace."""
    runner = CliRunner(env={"INDEX_GRPC_ADDRESS": server.address})
    lost = Failure(grpc.StatusCode.INTERNAL, "lost")
    server.script.failing = {"two": [None, lost]}
    lines = "one\ntwo\n/retry\n/retry\nthree\n"
    result = runner.invoke(index_client, ["chat"], input=lines, catch_exceptions=False)
    assert (result.exit_code, result.stderr.count("error: lost")) == (Exit.REFUSED, 1)
    assert [history for prompt, history in answered_prompts(server.script) if prompt == "two"] == [["one", TEXT]] * 3
    assert answered_prompts(server.script)[-1] == ("three", ["one", TEXT, "two", TEXT])


def test_a_piped_line_that_is_not_utf8_is_skipped_with_an_error(server: FakeServer) -> None:
    runner = CliRunner(env={"INDEX_GRPC_ADDRESS": server.address})
    result = runner.invoke(index_client, ["chat"], input=b"one\n\xff\xfe\n\xe4\xb8\xa4\n", catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (2, f"{TEXT}\n{TEXT}\n")
    assert result.stderr.startswith("error: standard input is not UTF-8: ")
    assert [prompt for prompt, _ in answered_prompts(server.script)] == ["one", "两"]


def test_errors_end_a_turn_only(server: FakeServer) -> None:
    server.script.cut_after = 1
    result = talk(server, "one", "/nothing", "/retry", "/help")
    assert (result.exit_code, result.stdout) == (Exit.UNAVAILABLE, "Hello\nHello\n")
    assert result.stderr.count("error: the answer was cut off: the stream ended without a finish") == 2
    assert "error: there is no command /nothing" in result.stderr
    assert "/system TEXT" in result.stderr
    assert answered_prompts(server.script) == [("one", [])] * 2


def test_two_slashes_send_a_prompt_that_begins_with_one(server: FakeServer) -> None:
    result = talk(server, "//etc/hosts: what is it?", "  //quit", "/etc/hosts")
    assert answered_prompts(server.script)[0] == ("/etc/hosts: what is it?", [])
    assert answered_prompts(server.script)[1] == ("/quit", ["/etc/hosts: what is it?", TEXT])
    assert (result.exit_code, len(answered_prompts(server.script))) == (2, 2)
    assert "hint: /help lists them; to ask about /etc/hosts, begin the line with //" in result.stderr
    assert "//TEXT" in talk(server, "/help").stderr


def test_a_refused_prompt_is_reported(server: FakeServer) -> None:
    result = talk(server, "x" * 101, "one")
    assert "error: prompt: 101 tokens, but the context holds 100\n" in result.stderr
    assert (result.exit_code, result.stdout) == (Exit.REFUSED, f"{TEXT}\n")


def converse(server: FakeServer, *lines: str) -> None:
    """Answers the lines as at a terminal."""
    left = iter(lines)

    async def connect() -> AsyncClient:
        return AsyncClient(server.address)

    with asyncio.Runner() as runner:
        client = runner.run(connect())
        Dialogue(runner, AsyncConversation(client), CALL, AnswerOptions()).run(lambda: next(left))
        runner.run(client.close())


def test_a_line_that_is_not_utf8_ends_a_turn_only(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    converse(server, "\udcff", "one", "/quit")
    assert answered_prompts(server.script) == [("one", [])]
    assert capsys.readouterr().err.startswith("error: prompt holds '\\udcff' at character 0")


@pytest.mark.usefixtures("default_signal_handlers")
def test_the_handler_of_ctrl_c_is_restored_even_if_the_turn_fails(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        signal.signal(signal.SIGINT, end_at_once)
        raise InternalError("the turn failed", grpc.StatusCode.INTERNAL)

    monkeypatch.setattr(AsyncConversation, "stream", fail)
    converse(server, "one", "/quit")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_signal_handlers")
def test_ctrl_c_stops_an_answer_not_the_program(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    script = server.script
    script.hold_after = 2
    steps: list[str | BaseException] = [KeyboardInterrupt(), "one", "two", EOFError()]

    def interrupt() -> None:
        script.holding.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    def read() -> str:
        step = steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        if step == "two":
            assert script.left.wait(30), "the server was left at work"
            script.hold_after = None
        return step

    async def connect() -> AsyncClient:
        return AsyncClient(server.address)

    threading.Thread(target=interrupt).start()
    with asyncio.Runner() as runner:
        client = runner.run(connect())
        conversation = AsyncConversation(client)
        Dialogue(runner, conversation, CALL, AnswerOptions()).run(read)
        runner.run(client.close())
    *_, last = capsys.readouterr().out.splitlines()
    assert last == TEXT
    assert [turn.content for turn in conversation.history] == ["two", TEXT]


def test_lines_are_edited_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        read = reader()
        keys.send_text("helo\x1b[Dl\r")
        assert read() == "hello"
        keys.send_text("\x04")
        with pytest.raises(EOFError):
            read()


@pytest.mark.parametrize("output", [None, subprocess.PIPE], ids=["at the terminal", "in a pipe"])
def test_a_dumb_terminal_gets_no_escape_sequences(server: FakeServer, output: int | None) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "index_client", "--address", server.address, "chat"]
    env = os.environ | {"TERM": "dumb"}
    with subprocess.Popen(command, stdin=end, stdout=output or end, stderr=end, env=env) as process:
        try:
            seen = shown(terminal, ">")
            os.write(terminal, b"Hi\r")
            seen += shown(terminal, ">")
            os.write(terminal, b"/quit\r")
            piped = process.stdout.read().decode() if process.stdout else ""
            seen += shown(terminal, "/quit\r")  # what follows it depends on when the terminal echoed it
        finally:
            process.kill()
    os.close(terminal)
    os.close(end)
    assert "\x1b" not in seen
    assert f"{TEXT}\r\n> " in seen if output is None else piped == f"{TEXT}\n"
