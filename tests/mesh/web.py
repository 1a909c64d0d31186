"""Calls over plain HTTP/1.1, as browsers and scripts make them."""

import asyncio
import http.client
import json
import re
from base64 import b64decode
from typing import Any

SERVICE = "/index.v1.ChatService/"
JSON = {"content-type": "application/json"}
SSE = JSON | {"accept": "text/event-stream"}


class Answer:
    """A response whose body is read as it comes, in a thread, since the servers may run on the test's event loop."""

    def __init__(self, address: str, method: str, body: object, headers: dict[str, str], verb: str) -> None:
        connection = http.client.HTTPConnection(address, timeout=30)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(verb, SERVICE + method, data, headers | {"connection": "close"})
        self._response = connection.getresponse()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}

    async def line(self) -> str:
        """The next line of the body."""
        return (await asyncio.to_thread(self._response.readline)).decode()

    async def body(self) -> bytes:
        """The rest of the body. Raises IncompleteRead if the connection was cut."""
        return await asyncio.to_thread(self._response.read)

    async def json(self) -> Any:
        """The rest of the body as one JSON value."""
        return json.loads(await self.body())

    async def messages(self) -> list[Any]:
        """The messages in the rest of a stream: lines of JSON or server-sent events."""
        lines = (await self.body()).decode().splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line]


async def answer(address: str, method: str, body: object, headers: dict[str, str], verb: str = "POST") -> Answer:
    """Makes a call and waits until its response begins."""
    return await asyncio.to_thread(Answer, address, method, body, headers, verb)


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """The flags and the content of each frame of gRPC-Web; the frame of trailers has the flag 0x80."""
    found = []
    while body:
        end = 5 + int.from_bytes(body[1:5])
        found.append((body[0], body[5:end]))
        body = body[end:]
    return found


def decoded(text: bytes) -> bytes:
    """Decodes a body of gRPC-Web in text form: pieces of base64, each with its own padding."""
    return b"".join(b64decode(piece) for piece in re.findall(rb"[^=]+=*", text))


def framed(message: bytes) -> bytes:
    """The only frame of a request."""
    return b"\0" + len(message).to_bytes(4) + message
