"""Calls over HTTP appear in logs and metrics like those over gRPC."""

import asyncio
import re
from typing import Any

import pytest

from index_grpc.http.endpoint import peer_of
from tests.http.asking import COMPLETIONS, asking, fake_http
from tests.server.fake_runner import FAILS
from tests.server.scraping import scraped

CALLS = "http_server_request_duration_seconds_count"


@pytest.mark.parametrize(("path", "body"), [("/", {"prompt": "Hi", "max_length": 5}), (COMPLETIONS, asking())])
async def test_metrics_of_http_calls_name_the_path(path: str, body: dict[str, Any]) -> None:
    async with fake_http(metrics_port=0) as (server, http):
        assert (await http.post(path, json=body)).status_code == 200
        found = await scraped(server.app)
    labels = {"http_request_method": "POST", "http_route": path, "http_response_status_code": "200"}
    assert found.value(CALLS, **labels, url_scheme="http", error_type="") == 1
    assert found.value("gen_ai_server_request_duration_seconds_count", error_type="") == 1


async def test_metrics_of_http_calls_name_the_status() -> None:
    async with fake_http(metrics_port=0) as (server, http):
        failing = {"x-request-id": f"{FAILS}now"}
        assert (await http.post(COMPLETIONS, json={})).status_code == 400
        assert (await http.get("/v1/models/other")).status_code == 404
        assert (await http.post(COMPLETIONS, json=asking(), headers=failing)).status_code == 500
        found = await scraped(server.app)
    assert found.value(CALLS, http_response_status_code="400", error_type="") == 1
    assert found.value(CALLS, http_route="/v1/models/{name}", http_response_status_code="404") == 1
    assert found.value(CALLS, http_response_status_code="500", error_type="INTERNAL") == 1


async def test_metrics_of_broken_off_responses_name_the_status_sent_if_any() -> None:
    async with fake_http(metrics_port=0) as (server, http):
        server.runner.step_seconds = 0.001
        endless = asking() | {"max_tokens": 4000}
        left = asyncio.create_task(http.post(COMPLETIONS, json=endless))
        await server.until_num_open(1)
        left.cancel()
        await server.until_num_open(0)
        async with http.stream("POST", COMPLETIONS, json=endless | {"stream": True}) as response:
            assert server.app.engine is not None
            server.app.engine.give_up()
            assert "engine_lost" in (await response.aread()).decode()
        found = await scraped(server.app)
    assert found.value(CALLS, http_response_status_code="", error_type="") == 1
    assert found.value(CALLS, http_response_status_code="200", error_type="UNAVAILABLE") == 1


@pytest.mark.parametrize(("path", "body"), [("/", {"prompt": "Hi", "max_length": 5}), (COMPLETIONS, asking())])
async def test_texts_of_http_calls_are_logged_on_demand(
    path: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with fake_http(log_prompts=True) as (_, http):
        assert (await http.post(path, json=body)).status_code == 200
    assert "prompt=Hi answer=abcde" in caplog.text


@pytest.mark.parametrize(
    ("host", "peer"),
    [("127.0.0.1", "ipv4:127.0.0.1"), ("::1", "ipv6:[::1]"), ("::ffff:127.0.0.1", "ipv4:127.0.0.1")],
)
def test_a_callers_address_is_written_like_grpcs(host: str, peer: str) -> None:
    assert peer_of((host, 5)) == f"{peer}:5"
    assert peer_of(None) == ""


async def test_the_log_has_the_address_of_an_http_caller(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with fake_http() as (_, http):
        assert (await http.post("/", json={"prompt": "Hi", "max_length": 5})).status_code == 200
    assert re.search(r" method=/ code=OK .* http_method=POST peer=ipv4:127\.0\.0\.1:[0-9]+$", caplog.text, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("POST /v1/v1/chat/completions", "method=/v1/v1/chat/completions code=NOT_FOUND reason=PATH_NOT_FOUND"),
        (f"GET /{'x' * 70}", f"method='/{'x' * 63}…' code=NOT_FOUND reason=PATH_NOT_FOUND"),
        ("GET /a%0ab?key=secret", r"method='/a\nb' code=NOT_FOUND reason=PATH_NOT_FOUND"),
        ("GET /v1/chat/completions", "method=/v1/chat/completions code=UNIMPLEMENTED reason=METHOD_NOT_ALLOWED"),
        ("POST /livez", "method=/livez code=UNIMPLEMENTED reason=METHOD_NOT_ALLOWED"),
    ],
)
async def test_the_log_has_requests_for_paths_and_methods_that_do_not_exist(
    line: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    method, path = line.split()
    async with fake_http(metrics_port=0) as (server, http):
        await http.request(method, path, headers={"x-request-id": "mine"})
        found = await scraped(server.app)
    (record,) = [record for record in caplog.records if record.name == "index_grpc.calls"]
    expected = rf"call request_id=mine {re.escape(told)} http_method={method} peer=ipv4:127\.0\.0\.1:[0-9]+"
    assert re.fullmatch(expected, record.getMessage())
    assert CALLS not in [sample.name for family in found.families for sample in family.samples]


async def test_the_log_has_no_health_checks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with fake_http() as (_, http):
        assert (await http.get("/health")).status_code == 200
    assert "index_grpc.calls" not in [record.name for record in caplog.records]
