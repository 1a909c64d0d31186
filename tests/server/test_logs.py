"""What the log says about each call, in which format, and what it never says."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.logs import NOISY, Event, JsonFormatter, TextFormatter
from tests.process import serving
from tests.server.asking import refusal, seeded, streamed, unary, until
from tests.server.fake_runner import FAILS, FakeServer, fake_server, letters

MARKER = "Geheimnis"
ANSWER = letters(20)
SAID = pb.ChatRequest(
    prompt=f"{MARKER} in the prompt",
    history=[pb.Message(role=pb.ROLE_SYSTEM, content=MARKER), pb.Message(role=pb.ROLE_USER, content=MARKER)],
    stop=[MARKER],
    max_tokens=20,
)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """The JSON objects of the log at its lowest level; read them after the calls."""
    found: list[dict[str, Any]] = []

    class CollectingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(self.format(record)))

    caplog.set_level("DEBUG")
    handler = CollectingHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    yield found
    logging.getLogger().removeHandler(handler)


async def call_line(lines: list[dict[str, Any]], request_id: str) -> dict[str, Any]:
    """Waits for the line of a call, which may come after its caller has the answer."""
    async with asyncio.timeout(30):
        while not (found := [line for line in lines if line.get("request_id") == request_id]):
            await asyncio.sleep(0.001)
    (line,) = found
    return line


def with_id(request_id: str) -> dict[str, Any]:
    return {"metadata": (("x-request-id", request_id),)}


async def test_a_call_is_one_object_with_typed_fields(lines: list[dict[str, Any]]) -> None:
    async with fake_server() as server:
        await server.stub.Chat(SAID, **with_id("one"))
        line = await call_line(lines, "one")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    seconds = [line.pop(f"{name}_seconds") for name in ("queue", "first_token", "total")]
    assert all(isinstance(length, float) for length in seconds)
    assert seconds == sorted(seconds)
    assert re.fullmatch(r"ipv4:127\.0\.0\.1:[0-9]+", line.pop("peer"))
    prompt_tokens = line.pop("prompt_tokens")
    assert prompt_tokens > 3
    assert line == {
        "level": "info",
        "logger": "index_grpc.calls",
        "message": "call",
        "request_id": "one",
        "method": "Chat",
        "code": "OK",
        "finish": "max_tokens",
        "completion_tokens": 20,
        "cached_prompt_tokens": 0,
    }


@pytest.mark.parametrize(
    ("changes", "peer"),
    [({}, r"ipv4:127\.0\.0\.1:[0-9]+"), ({"host": "::1"}, r"ipv6:\[::1\]:[0-9]+"), ({"unix_socket": True}, "unix:")],
    ids=["IPv4", "IPv6", "unix"],
)
async def test_the_line_says_where_a_call_came_from(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, changes: dict[str, Any], peer: str
) -> None:
    if "host" in changes and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    if "unix_socket" in changes:
        changes = {"unix_socket": tmp_path / "index.sock"}
    caplog.set_level("INFO")
    async with fake_server(**changes) as server:
        await server.stub.GetModel(pb.GetModelRequest(), **with_id("one"))
        await until(lambda: "request_id=one " in caplog.text)
    assert re.search(rf"call request_id=one method=GetModel .* peer={peer}$", caplog.text, re.MULTILINE)


async def test_a_refused_call_says_why(lines: list[dict[str, Any]]) -> None:
    async with fake_server() as server:
        await refusal(server.stub.Chat(pb.ChatRequest(), **with_id("bad")))
        line = await call_line(lines, "bad")
    assert (line["code"], line["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert "finish" not in line


async def every_kind_of_call(server: FakeServer) -> None:
    stub = server.stub
    assert await unary(stub, SAID) == await streamed(stub, SAID) == ANSWER
    await stub.CountTokens(pb.CountTokensRequest(prompt=MARKER, history=SAID.history))
    await stub.GetModel(pb.GetModelRequest())
    invalid = pb.ChatRequest(prompt=MARKER, sampling=pb.SamplingParams(temperature=9))
    elsewhere = pb.ChatRequest(prompt=MARKER, model=MARKER)
    for request in (invalid, elsewhere, pb.ChatRequest(prompt=MARKER * 1000), pb.ChatRequest(prompt=MARKER * 100_000)):
        await refusal(stub.Chat(request))
        await refusal(stub.ChatStream(request))
    await refusal(stub.Chat(SAID, **with_id(f"{FAILS}now")))
    for data in (MARKER.encode(), b"\x0a\xff" + MARKER.encode()):
        await refusal(server.channel.unary_unary("/index.v1.ChatService/Chat", bytes, bytes)(data))
    await refusal(server.channel.unary_unary(f"/index.v1.ChatService/{MARKER}", bytes, bytes)(b""))
    await leave(server)


async def leave(server: FakeServer) -> None:
    """Makes a call while another one has the only place, which then leaves."""
    server.runner.gate.clear()
    call = server.stub.ChatStream(SAID)
    await server.until_num_open(1)
    assert (await refusal(server.stub.Chat(SAID))).reason == "OVERLOADED"
    call.cancel()
    server.runner.gate.set()
    await server.until_num_open(0)


async def test_no_text_of_any_request_is_ever_logged(
    lines: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_server(max_sequences=1, max_waiting=0) as server:
        await every_kind_of_call(server)
    written = json.dumps(lines) + caplog.text
    codes = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNAVAILABLE", "CANCELLED"}
    assert {line["code"] for line in lines if "code" in line} == codes
    assert MARKER not in written
    assert ANSWER[:8] not in written


async def test_texts_are_logged_if_told_to(lines: list[dict[str, Any]]) -> None:
    async with fake_server(log_prompts=True) as server:
        for request_id, call in (("chat", server.stub.Chat), ("stream", server.stub.ChatStream)):
            call_it: Any = call(SAID, **with_id(request_id))
            await (call_it if request_id == "chat" else anext(aiter(call_it)))
            line = await call_line(lines, request_id)
            assert (line["prompt"], ANSWER.startswith(line["answer"])) == (SAID.prompt, True)
        await refusal(server.stub.Chat(pb.ChatRequest(prompt="x" * 1_000_000), **with_id("long")))
        assert len((await call_line(lines, "long"))["prompt"]) < 100_000


LINE_ENDS = "a\nb\rc\x0bd\x0ce\x1cf\x85g\u2028h\u2029i\x1b[2Jj\x9b2Jk\x00l"


@pytest.mark.parametrize(
    "text", [LINE_ENDS, "x code=OK", "你好 🙂", 'it\'s "so"', ""], ids=["ends", "field", "Chinese", "quotes", "empty"]
)
def test_no_text_can_end_its_line_or_pass_for_another_field(text: str) -> None:
    event = Event("call", {"code": "INTERNAL", "prompt": text, "total_seconds": 0.5})
    record = logging.LogRecord("name", logging.INFO, "path", 1, event, None, None)
    for written in (str(event), JsonFormatter().format(record)):
        assert written.splitlines() == [written]
        assert not re.search("[\x00-\x1f\x7f-\x9f]", written)
    assert json.loads(JsonFormatter().format(record))["prompt"] == text
    assert str(event).endswith(f"prompt={text!r} total_seconds=0.500")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "latin-1"}], ids=str)
def test_json_is_json_whatever_the_locale(locale: dict[str, str]) -> None:
    text = f"é 你好 🙂 \udcff {LINE_ENDS}"
    program = (
        "import logging; from index_grpc.logs import Event, configure_logging\n"
        "configure_logging('info', 'json')\n"
        f"logging.info(Event('call', {{'prompt': {text!a}}}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True, env=os.environ | locale)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["prompt"] == text


@pytest.mark.parametrize(("level", "num_written"), [("error", 1), ("debug", 2)])
def test_libraries_keep_to_the_level_and_the_format(checkpoint: Path, level: str, num_written: int) -> None:
    """Some libraries set levels and add handlers when they are imported."""
    program = (
        "import logging; from index_grpc.logs import NOISY, configure_logging\n"
        f"configure_logging({level!r}, 'json')\n"
        "from index_grpc.loading import load_runner; from tests.conftest import settings\n"
        f"load_runner(settings({str(checkpoint)!r}))\n"
        "for name in NOISY:\n"
        "    for told in (logging.INFO, logging.WARNING, logging.ERROR): logging.getLogger(name).log(told, 'told')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = [line for line in map(json.loads, done.stderr.splitlines()) if line["message"] == "told"]
    assert Counter(line["logger"] for line in told) == dict.fromkeys(NOISY, num_written)


def test_no_record_can_forge_a_line() -> None:
    record = logging.LogRecord("name", logging.INFO, "path", 1, "a library says %s", (LINE_ENDS,), None)
    written = TextFormatter().format(record)
    assert written.splitlines() == [written]
    assert not re.search("[\x00-\x1f\x7f-\x9f]", written)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO .*", written)


def test_a_traceback_keeps_its_lines_and_forges_none() -> None:
    try:
        raise ValueError(f"{LINE_ENDS}\n2026-01-01 00:00:00,000 INFO forged")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, "path", 1, "it broke", (), sys.exc_info())
    first, *traceback = TextFormatter().format(record).split("\n")
    assert first.endswith(" ERROR it broke")
    assert traceback[0] == "  Traceback (most recent call last):"
    assert traceback[-1] == "  2026-01-01 00:00:00,000 INFO forged"
    assert all(line.startswith("  ") and line.splitlines() == [line] for line in traceback)


def test_whatever_the_processes_write_is_json(checkpoint: Path) -> None:
    """This holds for both processes, at the lowest level, from start to end."""
    arguments = ["--model", str(checkpoint), "--port", "0", "--engine-process", "--drain-delay-seconds", "0"]
    with serving(*arguments, "--log-format", "json", "--log-level", "debug") as process:
        with grpc.insecure_channel(process.address()) as channel:
            stub: Any = ChatServiceStub(channel)
            stub.Chat(seeded(MARKER, seed=1, max_tokens=5), **with_id("one"))
        process.send(signal.SIGTERM)
        assert process.exit_code() == 0
    lines = [json.loads(line) for line in process.lines]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert [line["completion_tokens"] for line in lines if line.get("request_id") == "one"] == [5]
    assert any(line["logger"].startswith("index_grpc.loading") for line in lines)  # the engine's process loads
    assert MARKER not in "".join(process.lines)


def test_a_server_that_cannot_start_says_so_in_json_too() -> None:
    with serving("--host", "203.0.113.1", "--log-format", "json") as process:
        assert process.exit_code(60) == 1
    last = [json.loads(line) for line in process.lines][-1]
    assert last["level"] == "error"
    assert last["message"].startswith("cannot listen on 203.0.113.1:50051")
