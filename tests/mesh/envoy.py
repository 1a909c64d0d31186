"""A running Envoy with deploy/envoy/envoy.yaml."""

import asyncio
import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.mesh.proxy import DEPLOY, Changes, Proxy, changed, port, running, until

COMMAND = (str(Path(sys.executable).with_name("envoy")), "--concurrency", "1", "--disable-hot-restart")
CONFIGURATION = DEPLOY / "envoy" / "envoy.yaml"
BY_LOAD = (DEPLOY / "envoy" / "by-load.yaml").read_text()
LOAD_BALANCING = "      lb_policy: ROUND_ROBIN # or by load, see by-load.yaml\n"


def configuration(replicas: Sequence[str], changes: Changes | None = None) -> str:
    """The configuration of Envoy for these two replicas, on free ports."""
    first, second = replicas
    return changed(
        CONFIGURATION,
        {
            "address: replica-1, port_value: 50051": f"address: 127.0.0.1, port_value: {port(first)}",
            "address: replica-2, port_value: 50051": f"address: 127.0.0.1, port_value: {port(second)}",
            "address: 0.0.0.0, port_value: 8080": "address: 127.0.0.1, port_value: 0",
            "port_value: 9901": "port_value: 0",
            "/etc/envoy/index.pb": str(DEPLOY / "envoy" / "index.pb"),
            **(changes or {}),
        },
    )


class Envoy(Proxy):
    """A running Envoy, whose state is read from its admin port. It writes the port's address to a file."""

    def __init__(self, admin: Path) -> None:
        super().__init__()
        self._admin = admin

    async def start(self) -> None:
        """Waits until it accepts calls."""
        await until(self._has_admin_port)
        await until(self._listens)

    async def healthy(self) -> set[str]:
        """See Proxy."""
        (cluster,) = (await self._asked("clusters"))["cluster_statuses"]
        return {
            _address(host["address"])
            for host in cluster["host_statuses"]
            if not host["health_status"].keys() & {"failed_active_health_check", "failed_outlier_check"}
        }

    async def count(self, name: str) -> int:
        """A counter or gauge of the cluster."""
        (found,) = (await self._asked(f"stats?filter=^cluster.index.{name}$"))["stats"]
        return int(found["value"])

    async def _has_admin_port(self) -> bool:
        return self._admin.exists() and bool(self._admin.read_text())

    async def _listens(self) -> bool:
        listeners = (await self._asked("listeners")).get("listener_statuses")
        if listeners:
            self.address = _address(listeners[0]["local_address"])
        return bool(listeners)

    async def _asked(self, what: str) -> Any:
        separator = "&" if "?" in what else "?"
        url = f"http://{self._admin.read_text()}/{what}{separator}format=json"
        return json.loads(await asyncio.to_thread(_fetched, url))


def _fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        data: bytes = response.read()
    return data


def _address(found: dict[str, Any]) -> str:
    place = found["socket_address"]
    return f"{place['address']}:{place['port_value']}"


@asynccontextmanager
async def running_envoy(folder: Path, replicas: Sequence[str], changes: Changes | None = None) -> AsyncIterator[Envoy]:
    """An Envoy that sends calls to both replicas; its files are in the folder."""
    file, admin = folder / "envoy.yaml", folder / "envoy.admin"
    admin.unlink(missing_ok=True)
    file.write_text(configuration(replicas, changes))
    command = [*COMMAND, "-c", str(file), "--admin-address-path", str(admin)]
    async with running(command, folder / "envoy.log"):
        envoy = Envoy(admin)
        await envoy.start()
        await envoy.until_healthy(*replicas)
        yield envoy
