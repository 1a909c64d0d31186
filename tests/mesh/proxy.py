"""What Envoy and HAProxy have in common: a changed configuration of deploy/, and a process that reads it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

Changes = Mapping[str, str]
"""Texts of a configuration, and their replacements for a test."""


def changed(file: Path, changes: Changes) -> str:
    """The file's text with the changes; each text to be replaced must be in it."""
    text = file.read_text()
    for old, new in changes.items():
        assert old in text, f"no {old!r} in {file}"
        text = text.replace(old, new)
    return text


def port(address: str) -> str:
    """The port of host:port."""
    return address.rpartition(":")[2]


class Proxy:
    """A running proxy that accepts calls at `address`, host:port."""

    def __init__(self, address: str = "") -> None:
        self.address = address

    async def healthy(self) -> set[str]:
        """The addresses of the replicas that get calls."""
        raise NotImplementedError

    async def until_healthy(self, *replicas: str) -> None:
        """Waits until these replicas get calls and no others."""
        await until(lambda: self._are_healthy(set(replicas)))

    async def _are_healthy(self, replicas: set[str]) -> bool:
        return await self.healthy() == replicas


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Polls a condition until it holds."""
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(command: Sequence[str], log: Path, pass_fds: tuple[int, ...] = ()) -> AsyncIterator[None]:
    """A process, which is killed at the end."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, pass_fds=pass_fds)
    try:
        yield
    finally:
        assert process.returncode is None, f"it has ended by itself, see {log}"
        process.kill()
        await process.wait()
