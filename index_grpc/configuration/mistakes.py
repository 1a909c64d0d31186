"""How a mistake in the settings is told: in one line that names what, value, limit and remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError


def closest(name: str, known: Iterable[str]) -> str:
    """What a name that is not known may have meant."""
    found = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {found[0]}?" if found else "index-grpc serve --help lists them all"


def setting_problem(error: ValidationError, written_as: str) -> str:
    """The first problem, of a setting under the name that its writer gave it."""
    first = error.errors()[0]
    problem = first["msg"].replace("Input should", "it should").replace("String should", "it should")
    return f"{written_as} is {first['input']!r}; {problem}"
