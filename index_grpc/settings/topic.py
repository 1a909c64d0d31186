"""What all topics of the settings have in common."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Topic(BaseModel):
    """Settings that people read together."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refuse(*rules: tuple[object, str]) -> None:
    """Raises for the first rule that is broken, each with what is to be said then."""
    for is_broken, problem in rules:
        if is_broken:
            raise PydanticCustomError("together", "{problem}", {"problem": problem})
