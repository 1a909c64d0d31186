"""Calls over HTTP are seen like those over gRPC."""

from typing import Any

import pytest

from tests.http.asking import COMPLETIONS, asking, fake_http
from tests.server.scraping import scraped


@pytest.mark.parametrize(("path", "body"), [("/", {"prompt": "Hi", "max_length": 5}), (COMPLETIONS, asking())])
async def test_their_metrics_name_the_path(path: str, body: dict[str, Any]) -> None:
    async with fake_http(metrics_port=0) as (server, http):
        assert (await http.post(path, json=body)).status_code == 200
        found = await scraped(server.app)
    labels = {"rpc_system_name": "http", "rpc_method": path, "rpc_response_status_code": "OK"}
    assert found.value("rpc_server_call_duration_seconds_count", **labels, error_type="") == 1
    assert found.value("gen_ai_server_request_duration_seconds_count", error_type="") == 1


@pytest.mark.parametrize(("path", "body"), [("/", {"prompt": "Hi", "max_length": 5}), (COMPLETIONS, asking())])
async def test_their_texts_are_logged_on_demand(
    path: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with fake_http(log_prompts=True) as (_, http):
        assert (await http.post(path, json=body)).status_code == 200
    assert "prompt=Hi answer=abcde" in caplog.text
