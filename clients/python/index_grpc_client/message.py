"""The turns of a conversation."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from index_grpc_client.v1 import chat_pb2


class Role(StrEnum):
    """The author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    UNKNOWN = "unknown"
    """A role newer than this client. Such a message can be sent back only as it was received."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        """Replaces a role's name by the role.

        Raises:
            ValueError: there is no such role.
            TypeError: the content is not a str.
        """
        object.__setattr__(self, "role", Role(self.role))
        if not isinstance(self.content, str):
            raise TypeError(f"the content of a message is {self.content!r}; allowed is a str")

    @staticmethod
    def from_wire(message: chat_pb2.Message) -> "Message":
        """Returns a generated message as a Message, of the role UNKNOWN if its role is unset or unknown here."""
        if message.role not in chat_pb2.Role.values():
            return NewerMessage(Role.UNKNOWN, message.content, message.role)
        name = chat_pb2.Role.Name(message.role).removeprefix("ROLE_")
        return Message(Role[name] if message.role else Role.UNKNOWN, message.content)

    def to_wire(self) -> chat_pb2.Message:
        """Returns the message as a generated message of the contract. Raises ValueError if its role is UNKNOWN."""
        if self.role is Role.UNKNOWN:
            raise ValueError("the role of a message is unknown; allowed are system, user and assistant")
        return chat_pb2.Message(role=chat_pb2.Role.Value(f"ROLE_{self.role.name}"), content=self.content)


@dataclass(frozen=True, slots=True)
class NewerMessage(Message):
    """A message whose role is newer than this client."""

    number: chat_pb2.Role.ValueType
    """The role's number in the contract. It is kept so that a history can be sent back as it was received."""

    def to_wire(self) -> chat_pb2.Message:
        """Returns the message as it was received."""
        return chat_pb2.Message(role=self.number, content=self.content)


AnyMessage: TypeAlias = Message | chat_pb2.Message | tuple[str, str]
"""A message of a history: a Message, a generated message, or a pair like `("user", "Hello")`."""


def system(content: str) -> Message:
    """Returns a message with instructions for the whole conversation. Only a history's first message may be one."""
    return Message(Role.SYSTEM, content)


def user(content: str) -> Message:
    """Returns a message of the person or program that asks."""
    return Message(Role.USER, content)


def assistant(content: str) -> Message:
    """Returns a message of the model."""
    return Message(Role.ASSISTANT, content)


def message(value: AnyMessage) -> Message:
    """Returns the value as a Message.

    Raises:
        ValueError: there is no such role.
        TypeError: the value has none of the types of AnyMessage.
    """
    match value:
        case Message():
            return value
        case chat_pb2.Message():
            return Message.from_wire(value)
        case (str(role), str(content)):
            return Message(Role(role), content)
    raise TypeError(f"a message is a Message, a (role, content) pair or a chat_pb2.Message, not {value!r}")


def require_known_roles(history: Iterable[Message]) -> None:
    """Raises ValueError, which names the place, if a message's role is unknown and it was not received like that."""
    for place, turn in enumerate(history):
        if turn.role is Role.UNKNOWN and not isinstance(turn, NewerMessage):
            raise ValueError(f"history[{place}].role is unknown; allowed are system, user and assistant")


def messages(values: Iterable[AnyMessage]) -> tuple[Message, ...]:
    """Returns the messages of a history as Messages. Raises the same errors as `message`."""
    if not isinstance(values, Iterable):
        raise TypeError(f"history is {values!r}; allowed are messages, oldest first")
    return tuple(message(value) for value in values)
