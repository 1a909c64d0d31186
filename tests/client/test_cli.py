"""The commands of the command line, run in this process."""

import json
import os
from collections.abc import Callable

import grpc
import pytest
from click.testing import Result
from google.rpc import error_details_pb2
from index_grpc_client.v1 import chat_pb2

from .fake_server import (
    TEXT,
    Failure,
    FakeServer,
    Script,
    bad_request,
    no_access,
    overloaded,
    rate_limited,
    too_late,
    unknown_model,
)

Run = Callable[..., Result]


def test_ask_writes_the_answer_and_nothing_else(run: Run, script: Script) -> None:
    result = run("ask", "Hello", "world")
    assert (result.exit_code, result.stdout, result.stderr) == (0, TEXT + "\n", "")
    assert script.requests[0].prompt == "Hello world"
    assert script.requests[0].sampling == chat_pb2.SamplingParams()


def test_an_answer_that_ends_in_a_newline_gets_no_other(run: Run, script: Script) -> None:
    script.words = ("one\n",)
    assert run("ask", "Hi").stdout == "one\n"


def test_the_prompt_may_come_from_a_pipe(run: Run, script: Script) -> None:
    run("ask", stdin="from the pipe\n")
    run("ask", "Sum up:", "-", stdin="text\n")
    assert [request.prompt for request in script.requests] == ["from the pipe", "Sum up: text"]
    run("ask", stdin="    x = 1\r\n")
    assert script.requests[-1].prompt == "    x = 1"
    result = run("ask", stdin=b"\xff")
    assert (result.exit_code, result.stderr.splitlines()[0][:35]) == (2, "error: standard input is not UTF-8:")


@pytest.mark.parametrize("words", [["ask"], ["ask", "-"], ["ask", "-", "-"], ["count"]], ids=" ".join)
@pytest.mark.parametrize("blank", ["", "\n", " \t\r\n\n"])
def test_a_pipe_without_a_prompt_is_refused(run: Run, script: Script, words: list[str], blank: str) -> None:
    result = run(*words, stdin=blank)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "error: no prompt: standard input is empty or holds only white space"
    assert script.requests == []


def test_every_option_reaches_the_request(run: Run, script: Script) -> None:
    options = "--temperature 0 --top-p .5 --top-k 0 --min-p .1 --repetition-penalty 1.2 --frequency-penalty .1"
    options += " --presence-penalty -.1 --seed 9 --max-tokens 5 --time-limit 2.5 --model demo --stop a --stop b"
    options += " --json --logprobs --top-logprobs 1 --system s"
    assert run("ask", "Hi", *options.split()).exit_code == 0
    request = script.requests[0]
    assert request.sampling == chat_pb2.SamplingParams(
        temperature=0,
        top_p=0.5,
        top_k=0,
        min_p=0.1,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        seed=9,
    )
    assert (request.max_tokens, list(request.stop), request.model) == (5, ["a", "b"], "demo")
    assert (request.time_limit.seconds, request.logprobs, request.top_logprobs) == (2, True, 1)
    assert request.history[0] == chat_pb2.Message(role=chat_pb2.ROLE_SYSTEM, content="s")


def test_json_is_one_line(run: Run) -> None:
    result = run("ask", "Hi", "--json", "--logprobs")
    assert result.stdout.count("\n") == 1
    answer = json.loads(result.stdout)
    assert (answer["text"], answer["finish_reason"], answer["history"][0]["role"]) == (TEXT, "stop", "user")
    assert bytes(answer["logprobs"][2]["token_bytes"]).decode() == "世界"
    assert answer["create_time"] == "2023-11-14T22:13:20+00:00"


def test_an_answer_cut_at_its_limit_is_noted_on_stderr(run: Run, script: Script) -> None:
    script.finish_reason = chat_pb2.FINISH_REASON_MAX_TOKENS
    result = run("ask", "Hi")
    assert (result.exit_code, result.stdout) == (0, TEXT + "\n")
    assert result.stderr == "note: the answer was cut at its limit of tokens; --max-tokens allows more\n"


def test_violations_come_one_a_line(run: Run, script: Script) -> None:
    script.failures.append(bad_request("the request is wrong", prompt="is empty", sampling__top_p="2 is over 1"))
    result = run("ask", "")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "error: 2 things are wrong with the request:",
        "  prompt: is empty",
        "  sampling.top_p: 2 is over 1",
        "hint: `index-client ask --help` lists the options' ranges",
    ]


def test_violations_that_did_not_fit_are_counted(run: Run, script: Script) -> None:
    script.failures.append(bad_request("stop[0]: is empty (and 7 more violations)", stop="is empty", prompt="is empty"))
    assert run("ask", "").stderr.splitlines()[0] == "error: 8 things are wrong with the request, the first 2 are:"
    script.failures.append(bad_request("prompt: is empty (and 1 more violation)", prompt="is empty"))
    assert run("ask", "").stderr.splitlines()[0] == "error: prompt: is empty (and 1 more violation)"


@pytest.mark.parametrize("message", ["the request is wrong", "prompt: is empty"])
def test_one_violation_is_one_line(run: Run, script: Script, message: str) -> None:
    script.failures.append(bad_request(message, prompt="is empty"))
    assert run("ask", "").stderr == "error: prompt: is empty\n", "no option is to blame"


@pytest.mark.parametrize(
    ("failure", "exit_code", "hint"),
    [
        (no_access("KEY_MISSING"), 1, "give the key with --api-key"),
        (no_access("KEY_WRONG"), 1, "check the key in --api-key"),
        (no_access("KEY_EXPIRED"), 1, "check the key in --api-key"),
        (unknown_model("no such model"), 1, "`index-client model`"),
        (Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "too slow"), 4, None),
        (too_late(), 4, "--time-limit"),
        (Failure(grpc.StatusCode.UNIMPLEMENTED, "no such method"), 1, "may not be an index-grpc server"),
        (Failure(grpc.StatusCode.INTERNAL, "broken", (error_details_pb2.RequestInfo(request_id="r1"),)), 1, "r1"),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much"), 1, None),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Message larger than max (9 vs. 8)"), 1, "shorten"),
        (rate_limited(3), 1, "the server asks to try again in 3 s"),
        (rate_limited(3)._replace(message="2 requests a minute; try again in 3.00 s"), 1, None),
    ],
)
def test_failures_have_an_exit_code_and_a_hint(
    run: Run, script: Script, failure: Failure, exit_code: int, hint: str | None
) -> None:
    script.failures.append(failure)
    result = run("model")
    lines = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, lines[0]) == (exit_code, "", f"error: {failure.message}")
    assert lines[1].startswith("hint: ") and hint in lines[1] if hint else len(lines) == 1


def test_a_full_server_says_when_to_come_back(run: Run, script: Script) -> None:
    script.failures.extend([overloaded(2)] * 5)
    result = run("ask", "Hi")
    assert result.exit_code == 3
    assert result.stderr == "error: the queue is full\nhint: the server asks to try again in 2 s\n"


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_the_help_tells_where_the_defaults_are(run: Run, command: str) -> None:
    assert "the server's defaults, which `index-client model` shows" in " ".join(run(command, "--help").stdout.split())


def test_the_text_so_far_is_printed_before_the_error(run: Run, script: Script) -> None:
    script.cut_after = 2
    result = run("ask", "Hi")
    assert (result.exit_code, result.stdout) == (3, "Hello, \n")
    assert result.stderr.startswith("error: the answer was cut off: the stream ended without a finish")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_the_hint_after_an_answer_is_cut_off_is_to_ask_again(run: Run, script: Script, code: grpc.StatusCode) -> None:
    script.fail_after = (2, Failure(code, "Cancelling all calls"))
    result = run("ask", "Hi")
    assert result.stdout == "Hello, \n"
    assert result.stderr.splitlines() == [
        "error: the answer was cut off: Cancelling all calls",
        "hint: the server stopped or the connection was lost; ask again",
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--timeout", "nan", "model"], "--timeout is nan s; allowed is more than 0 s, and inf to wait for ever"),
        (["--timeout", "0", "model"], "--timeout is 0 s; allowed is more than 0 s, and inf to wait for ever"),
        (["ask", "--time-limit", "1e300", "Hi"], "--time-limit is 1e+300 s; allowed is more than 0 s, at most 315,576"),
        (["chat", "--time-limit", "nan"], "--time-limit is nan s; allowed is more than 0 s, at most 315,576,000,000"),
        (["--address", "", "model"], "--address is '', which names no host; allowed is host:port or unix:PATH"),
        (["--address", "a:99999", "model"], "--address is 'a:99999', which has the port 99999; allowed is 1 to 65535"),
        (
            ["--address", "x:1:2", "model"],
            "--address is 'x:1:2', which has several colons; allowed is host:port, [IPv6]",
        ),
        (["model", "--address", "a:99999"], "--address is 'a:99999', which has the port 99999; allowed is 1 to 65535"),
        (["--server-name", "x", "model"], "--server-name goes with --tls, --ca or --cert; add one"),
        (["--api-key", "ké", "model"], "--api-key holds '\\xe9' at character 1; allowed are printable ASCII char"),
        (["ask", "--json", "--top-logprobs", "3", "Hi"], "--top-logprobs needs --logprobs"),
        (["ask", "\udcff\udcfe"], "prompt holds '\\udcff' at character 0, which is not UTF-8; allowed is"),
        (["count", "--model", "\udcff", "Hi"], "model holds '\\udcff' at character 0, which is not UTF-8;"),
        (["ask", "--model", "\udcff", "Hi"], "model holds '\\udcff' at character 0, which is not UTF-8;"),
        (["ask", "--stop", "\udcff", "Hi"], "stop[0] holds '\\udcff' at character 0, which is not UTF-8;"),
        (["count", "--system", "\udcff", "Hi"], "system holds '\\udcff' at character 0, which is not UTF-8;"),
    ],
)
def test_wrong_values_are_refused_before_any_call(run: Run, script: Script, arguments: list[str], error: str) -> None:
    result = run(*arguments)
    lines = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, len(lines)) == (2, "", 2)
    assert lines[0].startswith(f"error: {error}")
    assert lines[1].startswith("hint: `index-client")
    assert script.requests == []


def test_wrong_command_lines(run: Run) -> None:
    for arguments in (["ask", "--top-k", "-1", "Hi"], ["nothing"], ["--nothing"], ["ask", "--logprobs", "Hi"]):
        result = run(*arguments)
        lines = result.stderr.splitlines()
        assert (result.exit_code, result.stdout, len(lines)) == (2, "", 2), arguments
        assert lines[0].startswith("error: "), arguments
        assert lines[1].startswith("hint: `index-client"), arguments
    assert run("ask", os.fsdecode(b"\xff")).exit_code == 2


def test_ask_without_a_prompt_does_not_read_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    result = run("ask")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "error: no prompt: give one, or pipe one in")


def test_health(run: Run, server: FakeServer, script: Script) -> None:
    result = run("health")
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")
    assert script.requests[0].service == "", "index-grpc health asks after the whole server, too"
    server.serve(False)
    result = run("health", "--service", "index.v1.ChatService")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "NOT_SERVING\n", "")
    result = run("health", "--service", "none")
    assert (result.exit_code, result.stdout) == (1, "SERVICE_UNKNOWN\n")


def test_model(run: Run) -> None:
    lines = run("model").stdout.splitlines()
    assert "context_length: 100" in lines
    assert "max_waiting_tokens: 9000" in lines
    assert "fingerprint: 0.1.0-cpu-fake" in lines
    assert "max_message_bytes: 1000" in lines
    assert "default_top_k: 5" in lines
    sampling = json.loads(run("model", "--json").stdout)["default_sampling"]
    assert sampling["top_k"] == 5
    fields = [field.name for field in chat_pb2.SamplingParams.DESCRIPTOR.fields]
    assert [*sampling, "seed"] == fields, "another order than the contract's"


def test_count(run: Run, script: Script) -> None:
    assert run("count", "four").stdout == "4\n"
    assert run("count", "--system", "abc", stdin="four\n").stdout == "7\n"
    assert json.loads(run("count", "four", "--json").stdout) == {"prompt_tokens": 4, "remaining_tokens": 96}
    assert run("count", "four", "--model", "other").exit_code == 0
    assert [request.model for request in script.requests] == ["", "", "", "other"]


def test_help_tells_the_exit_codes(run: Run) -> None:
    text = run("--help").stdout
    assert "3    the server cannot be reached" in text
    assert "INDEX_GRPC_ADDRESS" in text
