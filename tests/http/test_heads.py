"""What the head of a request says of its path and its body."""

import json
from http import HTTPStatus

import pytest

from index_grpc.server.app import App
from tests.http.asking import COMPLETIONS, Json, asking, fake_http
from tests.http.test_timeouts import WHOLE, connected, ended
from tests.server.asking import until
from tests.server.scraping import scraped
from tests.server.test_unfinished import CallLines

AMBIGUOUS = b"host: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
"""A body of five bytes for one reader; for another an empty one, and what follows is the next request."""


@pytest.mark.parametrize(
    "line",
    [
        "POST /",
        "POST /v1/chat/completions",
        "GET /v1/models",
        "GET /health",
        "GET /livez",
        "GET /nowhere",
        "GET http://x/livez",
    ],
)
async def test_a_body_of_two_lengths_is_refused_and_ends_the_connection(
    line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        writer.write(f"{line} HTTP/1.1\r\nx-request-id: mine\r\n".encode() + AMBIGUOUS + WHOLE)
        head, _, body = (await ended(reader, writer)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\nx-request-id: mine" in head
    told = json.loads(body)  # one object: the second request is not answered
    error = told["error"] if line.partition(" ")[2].startswith("/v1/") else told
    remedy = "came with content-length; only one of them may say where the body ends; send one of them"
    assert error["message"] == f"transfer-encoding: {remedy}"
    ended_by = f" code=INVALID_ARGUMENT reason=INVALID_REQUEST http_method={line.split()[0]} peer=ipv4:127.0.0.1:"
    assert caplog.text.count(ended_by) == 1


@pytest.mark.parametrize("value", ["gzip", "identity, br"])
async def test_a_compressed_body_is_refused_before_it_is_read(value: str) -> None:
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-encoding: {value}\r\ncontent-length: 99\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readline()).split()[1] == b"400"
        await reader.readuntil(b"\r\n\r\n")
        error = json.loads(await reader.readuntil(b"}}"))["error"]
        writer.transport.abort()
    assert error["message"] == f"content-encoding: is '{value}'; bodies are read as they are; send it uncompressed"
    assert error["param"] == "content-encoding"


async def test_a_body_that_is_said_to_be_uncompressed_is_read() -> None:
    async with fake_http() as (_, http):
        headers = {"content-encoding": "Identity"}
        assert (await http.post(COMPLETIONS, json=asking(), headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/a%2Fb", "/nowhere", "/?x=http://y/"])
@pytest.mark.parametrize("origin", ["http://127.0.0.1:6006", "HTTPS://other.example"])
async def test_a_whole_url_means_its_path(path: str, origin: str) -> None:
    async with fake_http() as (server, _):
        assert await answered(server.app, origin + path) == await answered(server.app, path)


async def test_a_url_without_a_path_means_the_first_one() -> None:
    async with fake_http() as (server, _):
        assert await answered(server.app, "http://127.0.0.1:6006") == await answered(server.app, "/")


async def answered(app: App, target: str) -> tuple[bytes, Json]:
    """The status and the object that answer a GET."""
    reader, writer = await connected(app)
    writer.write(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await ended(reader, writer)).partition(b"\r\n\r\n")
    told = json.loads(body)
    told.pop("time", None)
    return head.partition(b"\r\n")[0], told


@pytest.mark.parametrize(
    ("said", "status", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "this is not valid HTTP/1.1 (Missing mandatory Host: header)"),
        (b"GET /v1/models\r\n\r\n", 400, "this is not valid HTTP/1.1 (illegal request line)"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n", 400, "this is not valid HTTP/1.1 (illegal request line)"),
        (b"GET / HTTP/1.1\r\nhost x\r\n\r\n", 400, "this is not valid HTTP/1.1 (illegal header line)"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"x" * 20_000, 431, "the request line and the headers are too large"),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
            501,
            "the transfer-encoding is not supported",
        ),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfive\r\n",
            400,
            "this is not valid HTTP/1.1 (illegal chunk header",
        ),
    ],
)
async def test_what_is_not_http_is_refused_as_json_and_logged(
    said: bytes, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        writer.write(said)
        head, _, body = (await ended(reader, writer)).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode())
    assert b"\r\nconnection: close" in head.lower()
    assert b"\r\ncontent-type: application/json" in head
    told = json.loads(body)
    assert told["message"].startswith(message)
    assert told["reason"] == "MALFORMED_HTTP"
    assert "reason=MALFORMED_HTTP" in caplog.text


async def test_the_refusal_of_a_malformed_head_request_has_no_body(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        writer.write(b"HEAD /v1/models HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfive\r\n")
        head, _, body = (await ended(reader, writer)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == b""
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "2.0"),
        (b"GET /health HTTP/3.0\r\nhost: x\r\n\r\n", "3.0"),
        (b"POST / HTTP/0.9\r\nhost: x\r\ncontent-length: 9\r\n\r\n", "0.9"),
    ],
)
async def test_another_version_of_http_is_refused_once_and_ends_the_connection(
    said: bytes, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = CallLines(caplog)
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        writer.write(said)
        answer, _, body = (await ended(reader, writer)).partition(b"\r\n\r\n")
        (line,) = await log.lines(1)
    assert answer.startswith(b"HTTP/1.1 505 HTTP Version Not Supported\r\n")
    assert b"\r\nconnection: close" in answer.lower()
    told = json.loads(body)
    assert told["reason"] == "MALFORMED_HTTP"
    assert told["message"] == f"this port speaks HTTP/1.1, not HTTP/{version}; gRPC is on another port of this server"
    assert (line["code"], line["reason"]) == ("UNIMPLEMENTED", "MALFORMED_HTTP")
    assert "method" not in line


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.9"])
async def test_all_versions_from_1_0_are_answered(version: str) -> None:
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        writer.write(f"GET /health HTTP/{version}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert (await ended(reader, writer)).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "pieces", [(b"five\r\n",), (b"1\r\n{\r\n", b"five\r\n", b"more")], ids=["at once", "amid the body"]
)
async def test_a_call_with_a_malformed_body_is_one_line_of_the_log(
    pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    log = CallLines(caplog)
    async with fake_http(metrics_port=0) as (server, _):
        reader, writer = await connected(server.app)
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode() + pieces[0])
        if pieces[1:]:
            await until(lambda: server.app.calls.num_open == 1)
        writer.write(b"".join(pieces[1:]))
        answer, _, body = (await ended(reader, writer)).partition(b"\r\n\r\n")
        metrics = await scraped(server.app)
        (line,) = await log.lines(1)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nx-request-id: mine" in answer
    assert b"\r\nconnection: close" in answer
    error = json.loads(body)["error"]
    assert error["code"] == "malformed_http"
    assert error["message"].startswith("this is not valid HTTP/1.1 (illegal chunk header")
    assert (line["request_id"], line["method"]) == ("mine", COMPLETIONS)
    assert (line["code"], line["reason"]) == ("INVALID_ARGUMENT", "MALFORMED_HTTP")
    assert metrics.value("index_grpc_errors_total", reason="MALFORMED_HTTP") == 1


async def test_a_probe_with_a_malformed_body_is_answered_and_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing waits for the body of a probe, whether it comes before the answer or after it."""
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfive\r\n" + WHOLE)
        answer = await ended(reader, writer)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nconnection: close" in answer
    assert "Traceback" not in caplog.text


async def test_a_malformed_body_after_the_answer_only_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_http() as (server, _):
        reader, writer = await connected(server.app)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"400"
        await reader.readuntil(b"}")
        writer.write(b"five\r\n")
        assert await ended(reader, writer) == b""
    assert "Traceback" not in caplog.text
