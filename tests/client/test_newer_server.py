"""A server that is newer than the client, with values that the client has no name for."""

import copy
import pickle
from collections.abc import Callable

import pytest
from click.testing import Result
from grpc_health.v1.health_pb2 import HealthCheckResponse
from index_grpc_client import Client, Conversation, HealthStatus, Message, Role, assistant, user
from index_grpc_client.v1 import chat_pb2

from .either import EitherClient, settled
from .fake_server import TEXT, FakeServer, Script

NEWER_ROLE, NEWER_STATUS = 77, 78
NEWER = chat_pb2.Message(role=NEWER_ROLE, content="a")  # type: ignore[arg-type]


async def test_a_history_with_a_newer_role_is_received_and_sent_back_as_it_was(
    either: EitherClient, script: Script
) -> None:
    first = await settled(either.chat("Hi", history=[NEWER]))
    assert [message.role for message in first.history] == [Role.UNKNOWN, Role.USER, Role.ASSISTANT]
    assert (first.text, first.history[0].content) == (TEXT, "a")
    await settled(either.chat("And?", history=first.history))
    assert list(script.requests[1].history) == [NEWER, user("Hi").to_wire(), assistant(TEXT).to_wire()]


def test_a_conversation_goes_on_after_a_newer_role(client: Client, script: Script) -> None:
    conversation = Conversation(client, history=[NEWER], trim=True)
    conversation.ask("Hi")
    for _ in conversation.stream("And?"):
        pass
    assert script.requests[-1].history[0] == NEWER


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda message: pickle.loads(pickle.dumps(message))])
def test_a_copy_keeps_the_newer_role(copied: Callable[[Message], Message]) -> None:
    message = Message.from_wire(NEWER)
    assert copied(message) == message
    assert copied(message).to_wire() == NEWER
    assert message != Message(Role.UNKNOWN, "a")


def test_a_role_without_a_number_cannot_be_sent(client: Client, script: Script) -> None:
    unset = chat_pb2.Message(content="a")
    for message in (Message(Role.UNKNOWN, "a"), ("unknown", "a"), unset):
        with pytest.raises(ValueError, match=r"^history\[0\].role is unknown; allowed are system, user and assist"):
            client.chat("Hi", history=[message])
    assert script.requests == []


async def test_a_newer_health_is_unknown(either: EitherClient, server: FakeServer) -> None:
    server.health.set("", NEWER_STATUS)
    assert await settled(either.health()) is HealthStatus.UNKNOWN
    server.health.set("", HealthCheckResponse.UNKNOWN)
    assert await settled(either.health()) is HealthStatus.UNKNOWN


def test_the_command_line_prints_it(run: Callable[..., Result], server: FakeServer) -> None:
    server.health.set("", NEWER_STATUS)
    result = run("health")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "UNKNOWN\n", "")
