"""Metrics, their documentation, the dashboard and the alerts agree, and Prometheus itself can read them."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from prometheus_client import Metric

from index_grpc.access.keys import fingerprint
from tests.http.asking import fake_http
from tests.prometheus import running_prometheus
from tests.server.asking import refusal
from tests.server.fake_runner import FakeServer
from tests.server.scraping import Scrape, metrics_address, scraped

ROOT = Path(__file__).resolve().parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
ALERTS, TESTS = (MONITORING / "alerts.yaml").read_text(), (MONITORING / "alerts_test.yaml").read_text()
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
ROWS = ["Traffic", "Latency", "Engine", "Memory", "Faults", "Callers"]

KEY = "alice"
HEADER = ("authorization", f"Bearer {KEY}")

NAME = re.compile(r"\b(?:index_grpc|gen_ai|rpc|http|process)_\w+")

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here; it comes with Prometheus")


async def exercise(server: FakeServer, http: httpx2.AsyncClient) -> None:
    """Makes calls of which each metric counts something."""
    await server.stub.Chat(pb.ChatRequest(prompt="Hi", max_tokens=5), metadata=[HEADER])
    await refusal(server.stub.Chat(pb.ChatRequest(), metadata=[HEADER]))
    await http.get("/v1/models", headers=[HEADER])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one key, which is equal to its name."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(f"[keys.{KEY}]\nhash = '{fingerprint(KEY)}'\n")
    return path


@pytest.fixture(scope="module")
async def scrape(keys: Path) -> AsyncIterator[Scrape]:
    async with fake_http(metrics_port=0, api_keys_file=keys) as (server, http):
        await exercise(server, http)
        yield await scraped(server.app)


def exported_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def labels(metric: Metric) -> set[str]:
    return {label for sample in metric.samples for label in sample.labels} - {"le"}


def documented() -> dict[str, tuple[str, set[str]]]:
    """The type and labels of each metric by name, from the tables of docs/metrics.md."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", names))) for name, kind, names in rows}


async def test_what_is_documented_is_what_is_exported(scrape: Scrape) -> None:
    exported = {exported_name(metric): (metric.type, labels(metric)) for metric in scrape.families}
    assert documented() == exported


async def test_each_metric_explains_itself(scrape: Scrape) -> None:
    assert [metric.name for metric in scrape.families if not metric.documentation.endswith(".")] == []


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def unknown_names(text: str, scrape: Scrape) -> set[str]:
    """Names that look like a metric or a label but do not exist."""
    samples = {sample.name for metric in scrape.families for sample in metric.samples}
    return set(NAME.findall(text)) - samples - {label for metric in scrape.families for label in labels(metric)}


async def test_dashboard_and_alerts_use_exported_names(scrape: Scrape) -> None:
    for text in (*expressions(), json.dumps(DASHBOARD["templating"]), without_prose(ALERTS), without_prose(TESTS)):
        assert unknown_names(text, scrape) == set()


def without_prose(text: str) -> str:
    return re.sub(r"^ +(summary|description): .*$", "", text, flags=re.MULTILINE)


def test_the_dashboard_is_valid_and_its_panels_do_not_overlap() -> None:
    everything = DASHBOARD["panels"]
    assert [panel["title"] for panel in everything if panel["type"] == "row"] == ROWS
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
    cells: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        taken = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in taken) < 24
        cells |= taken
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert [target["datasource"]["uid"] for target in panel["targets"]] == ["${datasource}"] * len(panel["targets"])
        assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"])


def test_each_alert_says_what_to_do_and_has_a_test_that_it_fires() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert [ALERTS.count(word) for word in ("summary: ", "description: ", "{severity: ")] == [len(alerts)] * 3
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:", TESTS)) == set(alerts)


@needs_promtool
async def test_promtool_finds_nothing_wrong(scrape: Scrape) -> None:
    def promtool(*arguments: str, given: str = "") -> None:
        command = ["promtool", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=MONITORING)
        assert (done.returncode, "FAILED" in done.stderr) == (0, False), done.stdout + done.stderr

    promtool("check", "metrics", given=scrape.text)
    promtool("check", "config", "prometheus.yaml")
    promtool("check", "rules", "alerts.yaml")
    promtool("test", "rules", "alerts_test.yaml")


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus here")
async def test_prometheus_fills_every_panel_and_evaluates_every_alert(keys: Path, tmp_path: Path) -> None:
    async with (
        fake_http(metrics_port=0, api_keys_file=keys) as (server, http),
        running_prometheus(tmp_path, metrics_address(server.app), MONITORING / "alerts.yaml") as prometheus,
        asyncio.timeout(60),
    ):
        empty = [panel_query(expression) for expression in expressions()]
        while empty:
            await exercise(server, http)
            empty = [query for query in empty if not await prometheus.result(query)]
        await prometheus.until_rules_are_evaluated()
        while await prometheus.alerts():  # on a busy machine a scrape may be late
            await asyncio.sleep(0.1)


def panel_query(expression: str) -> str:
    """The query with its variables filled in, as by Grafana."""
    return expression.replace("$instance", ".*").replace("$__rate_interval", "5s")
