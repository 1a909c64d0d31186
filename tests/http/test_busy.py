"""Refused callers are told when to retry; callers that leave free their places; a drain completes all calls."""

import asyncio
import gc
import json
from typing import Any

import httpx2
import pytest

from index_grpc.chat import AnswerStream
from index_grpc.http.endpoint import Exchange
from tests.http.asking import COMPLETIONS, abort, asking, deltas, error_of, events, fake_http
from tests.server.asking import until
from tests.server.fake_runner import FakeServer, letters

PATHS: list[tuple[str, dict[str, Any]]] = [
    ("/", {"prompt": "Hi", "max_length": 20}),
    (COMPLETIONS, asking()),
    (COMPLETIONS, asking(stream=True)),
]
LONG: list[tuple[str, dict[str, Any]]] = [
    ("/", {"prompt": "Hi", "max_length": 4000}),
    (COMPLETIONS, asking() | {"max_tokens": 4000}),
    (COMPLETIONS, asking(stream=True) | {"max_tokens": 4000}),
]


def check_told_to_retry(response: httpx2.Response, code: str) -> None:
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 30
    assert 1 <= int(response.headers["retry-after-ms"]) <= 30_000
    told = response.json()
    assert code == (told["reason"].lower() if "reason" in told else error_of(response)["code"])


async def held(server: FakeServer, http: httpx2.AsyncClient, path: str, body: Any) -> asyncio.Task[httpx2.Response]:
    """A request that the device holds."""
    server.runner.gate.clear()
    asked = asyncio.create_task(http.post(path, json=body))
    await server.until_num_open(1)
    return asked


@pytest.mark.parametrize(("path", "body"), PATHS, ids=str)
async def test_all_places_taken(path: str, body: Any) -> None:
    async with fake_http(max_sequences=1, max_waiting=0) as (server, http):
        first = await held(server, http, path, body)
        check_told_to_retry(await http.post(path, json=body), "overloaded")
        assert (await http.get("/v1/models")).status_code == 200
        server.runner.gate.set()
        assert (await first).status_code == 200


async def test_while_loading() -> None:
    async with fake_http(loaded=False) as (server, http):
        for path, body in PATHS:
            check_told_to_retry(await http.post(path, json=body), "loading")
        check_told_to_retry(await http.get("/v1/models"), "loading")
        await server.load()
        assert (await http.get("/v1/models")).status_code == 200


async def test_no_time_for_a_token() -> None:
    async with fake_http() as (_, http):
        response = await http.post(COMPLETIONS, json=asking(time_limit=1e-9))
        assert response.status_code == 504
        assert error_of(response)["code"] == "deadline_too_short"


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_waited_too_long_is_freed(stream: bool) -> None:
    async with fake_http(max_sequences=1) as (server, http):
        first = await held(server, http, *PATHS[0])
        late = asyncio.create_task(http.post(COMPLETIONS, json=asking(time_limit=0.05, stream=stream)))
        await server.until_num_open(2)
        await asyncio.sleep(0.05)
        server.runner.gate.set()
        assert (await late).status_code == 504
        assert (await first).status_code == 200
        await until(lambda: not any(type(thing) is Exchange for thing in gc.get_objects()))


@pytest.mark.usefixtures("uncollected")
async def test_an_idle_connection_keeps_no_answer() -> None:
    async with fake_http() as (_, http):
        assert (await http.post(COMPLETIONS, json=asking())).status_code == 200
        await until(lambda: not any(type(thing) is AnswerStream for thing in gc.get_objects()))


async def test_a_time_limit_cuts_an_answer_short() -> None:
    async with fake_http() as (server, http):
        server.runner.step_seconds = 0.002
        answer = (await http.post(COMPLETIONS, json=asking(time_limit=0.2) | {"max_tokens": 4000})).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert 0 < answer["usage"]["completion_tokens"] < 4000


async def leave(address: str, path: str, body: Any, wait_for: bytes, server: FakeServer) -> None:
    """Sends a request, reads until `wait_for` has come, and closes the connection."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(data), data))
    if wait_for:
        await reader.readuntil(wait_for)
    await server.until_num_open(1)
    await abort(writer)


@pytest.mark.parametrize(("path", "body"), LONG, ids=str)
async def test_a_caller_that_leaves_frees_its_place(caplog: pytest.LogCaptureFixture, path: str, body: Any) -> None:
    caplog.set_level("INFO")
    async with fake_http() as (server, _):
        server.runner.step_seconds = 0.001
        streams = bool(body.get("stream"))
        await leave(server.app.ports[0].address, path, body, b"data: " if streams else b"", server)
        await server.until_num_open(0)
        await until(lambda: "code=CANCELLED" in caplog.text)
    assert "Traceback" not in caplog.text


async def test_a_caller_that_leaves_before_its_body_is_sent_is_logged_as_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with fake_http() as (server, http):
        host, port = server.app.ports[0].address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n")
        await reader.readuntil(b"100 Continue")
        await abort(writer)
        await until(lambda: "code=CANCELLED" in caplog.text)
        assert (await http.post("/", json={"prompt": "Hi"})).status_code == 200
    assert "Traceback" not in caplog.text


async def test_a_drain_completes_the_accepted_calls() -> None:
    async with fake_http() as (server, http):
        server.runner.step_seconds = 0.002
        body = asking(stream=True) | {"max_tokens": 300}
        asked = asyncio.create_task(http.post(COMPLETIONS, json=body))
        await server.until_num_open(1)
        drained = asyncio.create_task(server.app.drain(0.0))
        await until(lambda: server.app.readiness._refusal is not None)
        check_told_to_retry(await http.post("/", json={"prompt": "Hi"}), "draining")
        assert (await http.get("/health")).status_code == 503
        assert (await http.get("/livez")).status_code == 200
        await drained
        assert deltas(events((await asked).text)) == letters(300)
        with pytest.raises(httpx2.ConnectError):
            await http.post("/", json={"prompt": "Hi"})


async def test_calls_are_answered_in_the_delay_before_the_drain() -> None:
    async with fake_http() as (server, http):
        drained = asyncio.create_task(server.app.drain(60.0))
        await until(lambda: not server.app.health.is_ready)
        assert (await http.get("/readyz")).json() == {"status": "NOT_SERVING"}
        assert (await http.post("/", json={"prompt": "Hi", "max_length": 3})).json()["response"] == "abc"
        drained.cancel()


async def test_a_stream_cut_off_by_the_stop_ends_with_an_error() -> None:
    async with fake_http() as (server, http):
        server.runner.step_seconds = 0.002
        asked = asyncio.create_task(http.post(COMPLETIONS, json=asking(stream=True) | {"max_tokens": 4000}))
        await server.until_num_open(1)
        await until(lambda: server.runner.num_runs > 5)
        await server.app.stop()
        text = (await asked).text
        last = json.loads(text.strip().rpartition("data: ")[2])
        assert last["error"]["code"] == "draining"
        assert "[DONE]" not in text


async def test_probes() -> None:
    async with fake_http(loaded=False) as (server, http):
        for path in ("/health", "/healthz", "/readyz"):
            assert (await http.get(path)).status_code == 503
        assert (await http.get("/livez")).status_code == 200
        await server.load()
        for path in ("/health", "/healthz", "/readyz", "/livez"):
            response = await http.get(path, headers={"x-request-id": "mine"})
            assert (response.status_code, response.json()) == (200, {"status": "SERVING"})
            assert response.headers["x-request-id"] == "mine"
