"""A running HAProxy with deploy/haproxy/haproxy.cfg."""

import asyncio
import csv
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.mesh.proxy import DEPLOY, Changes, Proxy, changed, running

CONFIGURATION = DEPLOY / "haproxy" / "haproxy.cfg"
PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
"""Debian installs it in a folder that is not on every user's PATH."""


def program() -> str | None:
    """The path of the program, if it is installed."""
    return shutil.which("haproxy", path=PATH)


def configuration(folder: Path, replicas: Sequence[str], listener: str, changes: Changes | None = None) -> str:
    """The configuration of HAProxy for these two replicas."""
    first, second = replicas
    places = {
        "replica-1:50051": first,
        "replica-2:50051": second,
        "bind :8080 ": f"bind {listener} ",
        "/run/haproxy/admin.sock": str(folder / "admin.sock"),
    }
    return changed(CONFIGURATION, places | dict(changes or {}))


class HAProxy(Proxy):
    """A running HAProxy, whose state is read from its admin socket."""

    def __init__(self, address: str, admin: Path) -> None:
        super().__init__(address)
        self._admin = admin

    async def healthy(self) -> set[str]:
        """See Proxy."""
        if not self._admin.exists():
            return set()
        rows = csv.DictReader((await self._asked("show stat")).removeprefix("# ").splitlines())
        return {row["addr"] for row in rows if row["addr"] and row["status"] == "UP"}

    async def _asked(self, what: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self._admin)
        writer.write(f"{what}\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()


@asynccontextmanager
async def running_haproxy(
    folder: Path, replicas: Sequence[str], changes: Changes | None = None
) -> AsyncIterator[HAProxy]:
    """An HAProxy that sends calls to both replicas; its files are in the folder."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        file, fd = folder / "haproxy.cfg", listener.fileno()
        file.write_text(configuration(folder, replicas, f"fd@{fd}", changes))
        command = [program() or "haproxy", "-db", "-f", str(file)]
        async with running(command, folder / "haproxy.log", (fd,)):
            haproxy = HAProxy(f"127.0.0.1:{listener.getsockname()[1]}", folder / "admin.sock")
            await haproxy.until_healthy(*replicas)
            yield haproxy
