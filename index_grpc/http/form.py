"""Reads a body's JSON into a form. Types are checked here, values by the same rules as gRPC's."""

import itertools
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from index_grpc.datatypes import ServedModel
from index_grpc.errors import InvalidRequest, Violation
from index_grpc.server.status import quoted
from index_grpc.server.validate import MOST_VIOLATIONS, refuse_too_many_messages

MOST_PIECES = 100_000
"""The most strings, commas and opening brackets of a body. A message has about 7 of them."""
PIECES = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,[{]', re.DOTALL)
MOST_FIELDS = 100
MOST_PATH_CHARACTERS = 100
EMPTY_NAME = '""'
"""How a field is named whose name is the empty string."""

WANTED = {
    "model_type": "it should be an object",
    "list_type": "it should be an array",
    "tuple_type": "it should be an array",
    "int_parsing_size": "it should be a smaller number",
}
"""What a value should be, in the words of JSON, where pydantic would speak of Python."""

LARGEST = 2**32 - 1
UInt32 = Annotated[int, Field(ge=0, le=LARGEST)]


class Form(BaseModel):
    """A JSON object. Fields that are null, [] or {} count as absent; unknown fields are refused by name."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    ignored: ClassVar[frozenset[str]] = frozenset()
    """Fields that are accepted and ignored."""
    conversation: ClassVar[str] = ""
    """The field that lists turns, if there is one."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        if len(values) > MOST_FIELDS:
            raise PydanticCustomError("too_many_fields", f"it should have at most {MOST_FIELDS} fields")
        return {name: value for name, value in values.items() if name not in cls.ignored and not cls.is_absent(value)}

    @classmethod
    def is_absent(cls, value: object) -> bool:
        """Whether a field with this value counts as absent."""
        return value is None or value in ([], {})

    @classmethod
    def num_history(cls, num_turns: int) -> int:
        """Returns how many messages before the prompt these turns make."""
        return num_turns


AnyForm = TypeVar("AnyForm", bound=Form)


def read(form: type[AnyForm], body: bytes, model: ServedModel) -> AnyForm:
    """Returns the body as that form. Raises InvalidRequest with everything that is wrong, or PromptTooLong."""
    _refuse_crowded(body)
    try:
        values = from_json(body.removeprefix(BOM_UTF8))
    except ValueError as error:
        raise InvalidRequest(Violation("body", f"is not valid JSON ({error}); send a JSON object in UTF-8")) from None
    if not isinstance(values, dict):
        raise InvalidRequest(Violation("body", "is not a JSON object; send an object such as {...}"))
    if isinstance(turns := values.get(form.conversation), list):
        with naming(lambda field: form.conversation):
            refuse_too_many_messages(form.num_history(len(turns)), model.context_length)
    try:
        return form.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[:MOST_VIOLATIONS]
        raise InvalidRequest(*(_violation(detail) for detail in found)) from None


@contextmanager
def naming(name: Callable[[str], str]) -> Iterator[None]:
    """Renames the fields in an InvalidRequest to those that the caller knows."""
    try:
        yield
    except InvalidRequest as error:
        error.violations = tuple(replace(violation, field=name(violation.field)) for violation in error.violations)
        raise


def _refuse_crowded(body: bytes) -> None:
    """Refuses a body of too many values: millions would take seconds to parse, and block all other calls meanwhile."""
    if sum(map(body.count, (b'"', b",", b"[", b"{"))) <= MOST_PIECES:
        return
    pieces = PIECES.finditer(body)  # a string counts once, whatever is in it
    if next(itertools.islice(pieces, MOST_PIECES, None), None) is not None:
        problem = f"holds more than {MOST_PIECES} strings, commas and brackets; drop the oldest messages"
        raise InvalidRequest(Violation("body", problem))


def _violation(detail: ErrorDetails) -> Violation:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step or EMPTY_NAME}" for step in detail["loc"])
    path = "".join(steps).removeprefix(".")
    return Violation(path[:MOST_PATH_CHARACTERS] or "body", _description(detail))


def _description(detail: ErrorDetails) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return "is not supported; leave it out"
    if kind == "missing":
        return "is missing; set it"
    wanted = WANTED.get(kind) or re.sub("^[A-Z][a-z]+ should", "it should", detail["msg"])
    return f"is {_shown(value)}; {wanted.replace(' after validation', '')}"


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    return quoted(value) if isinstance(value, str) else quoted(json.dumps(value)).strip("'")
