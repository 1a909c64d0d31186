"""How the tests speak HTTP to a server that runs on their own event loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2

from index_grpc.server.app import App
from tests.server.fake_runner import FakeServer, fake_server

COMPLETIONS = "/v1/chat/completions"

Json = dict[str, Any]


def client(app: App) -> httpx2.AsyncClient:
    """A client of the app's HTTP port, with persistent connections and a long timeout."""
    return httpx2.AsyncClient(base_url=f"http://{app.ports[0].address}", timeout=30, trust_env=False)


@asynccontextmanager
async def fake_http(**changes: Any) -> AsyncIterator[tuple[FakeServer, httpx2.AsyncClient]]:
    """A server with a fake device, and a client for its HTTP port."""
    async with fake_server(http_port=0, **changes) as server, client(server.app) as http:
        yield server, http


def asking(prompt: str = "Hi", **fields: Any) -> Json:
    """The body of a completion request."""
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 20, **fields}


def events(text: str) -> list[Json]:
    """The events of a stream without the last one, [DONE], which must be there."""
    found = [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]
    assert found[-1] == "[DONE]"
    return [json.loads(event) for event in found[:-1]]


def deltas(found: list[Json]) -> str:
    """The text of a stream."""
    return "".join(choice["delta"].get("content", "") for event in found for choice in event["choices"])


def error_of(response: httpx2.Response) -> Json:
    """OpenAI's error object."""
    told: Json = response.json()
    assert list(told) == ["error"]
    error: Json = told["error"]
    assert set(error) - {"metadata"} == {"message", "type", "param", "code"}
    return error


async def abort(writer: asyncio.StreamWriter) -> None:
    """Closes the connection at once, without sending the rest."""
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
