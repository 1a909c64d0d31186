"""Messages about mistakes in the settings: one line that names setting, value, limit and remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError


def closest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns a hint at what an unknown name may have meant. A prefix that all names share is not compared."""
    found = get_close_matches(name.removeprefix(prefix), sorted(other.removeprefix(prefix) for other in known), n=1)
    return f"did you mean {prefix}{found[0]}?" if found else "index-grpc serve --help lists them all"


def setting_problem(error: ValidationError, written_as: str) -> str:
    """Returns the first problem, with the setting's name at its origin."""
    first = error.errors()[0]
    problem = first["msg"].replace("Input should", "it should").replace("String should", "it should")
    return f"{written_as} is {first['input']!r}; {problem}"
