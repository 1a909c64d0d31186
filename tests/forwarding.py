"""A connection that can be cut: forwards TCP until a test drops it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Forwarder:
    """Forwards connections on `address` to a server until `cut`."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    def cut(self) -> None:
        """Ends every connection with a reset, as a failing network does."""
        for writer in self._writers:
            writer.transport.abort()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called for each connection."""
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, far_writer]
        self._tasks |= {asyncio.create_task(pump(reader, far_writer)), asyncio.create_task(pump(far_reader, writer))}

    async def close(self) -> None:
        """Drops the connections that are left and waits until they have ended."""
        self.cut()
        await asyncio.gather(*self._tasks)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


@asynccontextmanager
async def forwarded(target: str) -> AsyncIterator[Forwarder]:
    """A Forwarder to `target` on a free port of the loopback."""
    forwarding = Forwarder(target)
    async with await asyncio.start_server(forwarding.connect, "127.0.0.1", 0) as listener:
        forwarding.address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield forwarding
        finally:
            await forwarding.close()
