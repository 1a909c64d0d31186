"""A running Prometheus that reads one server's metrics."""

import asyncio
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

CONFIGURATION = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - {{job_name: index-grpc, static_configs: [{{targets: ["{target}"]}}]}}
"""


class Prometheus:
    """A running Prometheus, queried through its HTTP API."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def result(self, query: str) -> list[Any]:
        """The series that a query returns now."""
        data = await self._asked(f"query?query={urllib.parse.quote(query)}")
        found: list[Any] = data["result"]
        return found

    async def until_rules_are_evaluated(self) -> None:
        """Waits until each rule has been evaluated without an error."""
        while True:
            groups = (await self._asked("rules"))["groups"]
            health = {rule["health"] for group in groups for rule in group["rules"]}
            assert "err" not in health, groups
            if health == {"ok"}:
                return
            await asyncio.sleep(0.05)

    async def alerts(self) -> list[Any]:
        """Alerts that are firing or pending."""
        alerts: list[Any] = (await self._asked("alerts"))["alerts"]
        return alerts

    async def until_ready(self) -> None:
        """Waits until it is ready."""
        while True:
            try:
                await self._asked("status/buildinfo")
            except urllib.error.URLError:
                await asyncio.sleep(0.05)
            else:
                return

    async def _asked(self, what: str) -> Any:
        answer = json.loads(await asyncio.to_thread(_fetched, f"http://{self._address}/api/v1/{what}"))
        assert answer["status"] == "success"
        return answer["data"]


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        text: str = response.read().decode()
    return text


@asynccontextmanager
async def running_prometheus(folder: Path, target: str, rules: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that reads the target five times a second; its data are in the folder."""
    configuration = folder / "prometheus.yaml"
    configuration.write_text(CONFIGURATION.format(target=target, rules=rules))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--config.file={configuration}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec("prometheus", *flags, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(address)
        async with asyncio.timeout(30):
            await prometheus.until_ready()
        yield prometheus
    finally:
        process.kill()
        await process.wait()
