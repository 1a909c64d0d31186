"""Control characters of an answer: a pipe gets them as they are, a terminal gets them made visible."""

from collections.abc import Callable

import grpc
import pytest
from click.testing import Result

from .fake_server import Failure, Script, bad_request

Run = Callable[..., Result]

WORDS = ("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\r\b\x00\x7f\x9b2J", "a\tb\n世界 \\x1b é")


@pytest.fixture(params=["ask", "chat"])
def answer(request: pytest.FixtureRequest, run: Run) -> Callable[[], str]:
    """Returns what a command that answers a prompt writes to stdout."""
    arguments = ("ask", "Hi") if request.param == "ask" else ("chat",)
    return lambda: run(*arguments, stdin="Hi\n").stdout_bytes.decode()


def test_a_pipe_gets_the_answer_itself(answer: Callable[[], str], script: Script) -> None:
    script.words = WORDS
    assert answer() == "".join(WORDS) + "\n"


def test_a_terminal_gets_no_control_characters(
    answer: Callable[[], str], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.words = WORDS
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    monkeypatch.setattr("index_grpc_client.cli.chat.is_terminal", lambda: False)
    shown = r"\x1b[31mred\x1b[0m\x1b]0;title\x07\x0d\x08\x00\x7f\x9b2J" + "a\tb\n世界 \\x1b é\n"
    assert answer() == shown


def test_a_servers_message_reaches_no_terminal_with_control_characters(run: Run, script: Script) -> None:
    script.failures.append(bad_request("bad \x1b]0;title\x07", stop="is \x1b[2J", top_k="is \x9b2J"))
    assert run("ask", "Hi").stderr.splitlines()[1:3] == [r"  stop: is \x1b[2J", r"  top_k: is \x9b2J"]
    script.failures.append(Failure(grpc.StatusCode.INTERNAL, "bad \x1b]0;title\x07"))
    assert run("ask", "Hi").stderr.splitlines()[0] == r"error: bad \x1b]0;title\x07"
