"""How a mistake in the settings is told: in one line that names what, value, limit and remedy."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import get_args

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from index_grpc.settings import ServeSettings


def closest(name: str, known: Iterable[str]) -> str:
    """What a name that is not known may have meant."""
    found = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {found[0]}?" if found else "index-grpc serve --help lists them all"


def setting_problem(error: ValidationError, setting: str, written_as: str) -> str:
    """The first problem, of a setting under the name that its writer gave it. Says nothing of a secret's value."""
    first = error.errors()[0]
    problem = first["msg"].replace("Input should", "it should").replace("String should", "it should")
    if is_secret(ServeSettings.model_fields[setting]):
        return f"{written_as} is wrong; {problem}"
    return f"{written_as} is {first['input']!r}; {problem}"


def is_secret(field: FieldInfo) -> bool:
    """Whether nobody may read its value anywhere."""
    return SecretStr in (field.annotation, *get_args(field.annotation))
