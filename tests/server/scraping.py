"""How the tests read a server's metrics: over HTTP, as Prometheus does."""

import asyncio
import urllib.request
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from index_grpc.server.app import App
from index_grpc.server.metrics.observer import Metrics


class Scrape:
    """The result of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: list[Metric] = list(families(text))

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, and possibly others; there must be at least one."""
        samples = [sample for family in self.families for sample in family.samples if sample.name == name]
        values = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
        assert values, f"no {name} with {labels}"
        return sum(values)

    def values(self, *names: str) -> list[float]:
        """The values of metrics without labels, by their names without the prefix `index_grpc_`."""
        return [self.value(f"index_grpc_{name}") for name in names]


def families(text: str) -> Iterable[Metric]:
    found: Iterable[Metric] = text_string_to_metric_families(text)
    return found


def metrics_address(app: App) -> str:
    """The address of the app's metrics, host:port."""
    (metrics,) = [member for member in app.observers.members if isinstance(member, Metrics)]
    return metrics.port.address


async def scraped(app: App) -> Scrape:
    return Scrape(await asyncio.to_thread(fetched, f"http://{metrics_address(app)}/metrics"))


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        text: str = response.read().decode()
    return text
