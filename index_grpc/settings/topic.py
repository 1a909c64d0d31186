"""The base class of all topics of the settings."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


def _not_empty(path: object) -> object:
    """Refuses the empty path, which Python would take for the working directory."""
    if path == "":
        raise PydanticCustomError("empty_path", "give it a path, or leave it out")
    return path


GivenPath = Annotated[Path, BeforeValidator(_not_empty)]
"""A path that is not empty."""


class Topic(BaseModel):
    """Settings of one topic."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refuse(*rules: tuple[object, str]) -> None:
    """Raises an error for the first rule that is broken. A rule is a pair: whether it is broken, and the message."""
    for is_broken, problem in rules:
        if is_broken:
            raise PydanticCustomError("together", "{problem}", {"problem": problem})
