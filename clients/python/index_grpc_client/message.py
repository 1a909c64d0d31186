"""The turns of a conversation."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self, TypeAlias

from index_grpc_client.v1 import chat_pb2


class Role(StrEnum):
    """The author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        """Replaces a role's name by the role.

        Raises:
            ValueError: the role is none of system, user and assistant.
            TypeError: the content is not a str.
        """
        object.__setattr__(self, "role", Role(self.role))
        if not isinstance(self.content, str):
            raise TypeError(f"the content of a message is {self.content!r}; allowed is a str")

    @classmethod
    def from_wire(cls, message: chat_pb2.Message) -> Self:
        """Returns a generated message as a Message. Raises ValueError if the role is unset or unknown here."""
        name = chat_pb2.Role.Name(message.role)
        return cls(Role(name.removeprefix("ROLE_").lower()), message.content)

    def to_wire(self) -> chat_pb2.Message:
        """Returns the message as a generated message of the contract."""
        return chat_pb2.Message(role=chat_pb2.Role.Value(f"ROLE_{self.role.name}"), content=self.content)


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
        ValueError: the role is none of system, user and assistant.
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


def messages(values: Iterable[AnyMessage]) -> tuple[Message, ...]:
    """Returns the messages of a history as Messages. Raises the same errors as `message`."""
    if not isinstance(values, Iterable):
        raise TypeError(f"history is {values!r}; allowed are messages, oldest first")
    return tuple(message(value) for value in values)
