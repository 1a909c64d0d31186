"""An answer that is cut off raises the same exception, however a proxy reports the loss."""

import asyncio

import grpc
import pytest
from h2.errors import ErrorCodes
from index_grpc_client import AsyncChatStream, AsyncClient, Client, IncompleteAnswerError, UnavailableError

from .cutting import Cut, CuttingServer, end, hang_up, reset
from .either import drained, settled

WITHOUT_HEALTH = {"grpc.service_config": "{}"}

CUTS: dict[str, tuple[Cut, grpc.StatusCode]] = {
    "reset": (reset(ErrorCodes.INTERNAL_ERROR), grpc.StatusCode.INTERNAL),
    "cancelled": (reset(ErrorCodes.CANCEL), grpc.StatusCode.CANCELLED),
    "ended": (end, grpc.StatusCode.UNKNOWN),
    "hung up": (hang_up, grpc.StatusCode.UNAVAILABLE),
}
"""How a stream is cut off, and the status that gRPC reports."""


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_loss_during_an_answer_raises_incomplete_answer(
    kind: type[Client] | type[AsyncClient], name: str
) -> None:
    cut, code = CUTS[name]
    with CuttingServer(cut, "Hello") as server:
        client = kind(server.address, channel_options=WITHOUT_HEALTH)
        stream = client.chat_stream("Hi")
        await (anext(stream) if isinstance(stream, AsyncChatStream) else asyncio.to_thread(next, stream))
        server.may_cut.set()
        with pytest.raises(IncompleteAnswerError) as caught:
            await drained(stream)
        await settled(client.close())
    assert (caught.value.code(), caught.value.text, caught.value.request_id) == (code, "Hello", "r1")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_loss_before_an_answer_raises_unavailable(kind: type[Client] | type[AsyncClient]) -> None:
    with CuttingServer(hang_up, "") as server:
        server.may_cut.set()
        client = kind(server.address, channel_options=WITHOUT_HEALTH)
        with pytest.raises(UnavailableError) as caught:
            await drained(client.chat_stream("Hi"))
        await settled(client.close())
    assert type(caught.value) is UnavailableError
