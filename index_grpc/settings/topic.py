"""The base class of all topics of the settings."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Topic(BaseModel):
    """Settings of one topic."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refuse(*rules: tuple[object, str]) -> None:
    """Raises an error for the first rule that is broken. A rule is a pair: whether it is broken, and the message."""
    for is_broken, problem in rules:
        if is_broken:
            raise PydanticCustomError("together", "{problem}", {"problem": problem})
