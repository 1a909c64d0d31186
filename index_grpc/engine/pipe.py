"""Messages between the server and the engine's process: a length in four bytes, then a pickled object.

Both ends run this code on one machine, so pickle is safe here; it is also the cheapest format.
"""

import asyncio
import pickle
import socket
from typing import Any

LENGTH_BYTES = 4


def framed(message: object) -> bytes:
    """Returns the bytes of a message: its length and the pickled object."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(LENGTH_BYTES) + data


def receive(end: socket.socket) -> Any:  # noqa: ANN401 - the other end may send anything
    """Waits for the next message. Raises EOFError once the other end has closed."""
    return pickle.loads(_exactly(end, int.from_bytes(_exactly(end, LENGTH_BYTES))))


async def receive_async(reader: asyncio.StreamReader) -> Any:  # noqa: ANN401 - as `receive` does
    """Does the same as `receive`, from an event loop."""
    try:
        return pickle.loads(await reader.readexactly(int.from_bytes(await reader.readexactly(LENGTH_BYTES))))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError from error


def _exactly(end: socket.socket, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        try:
            part = end.recv(num_bytes - len(data))
        except ConnectionError:
            part = b""
        if not part:
            raise EOFError
        data += part
    return bytes(data)
