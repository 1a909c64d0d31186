"""Makes the lines of a new key in a file of API keys."""

import os
import re
from datetime import date
from pathlib import Path

from index_grpc.access.files import content
from index_grpc.access.keys import FLAG, NAME, fingerprint, parse_keys, parsed
from index_grpc.errors import StartupError

MODE = 0o600
"""The permissions of a new file; an existing one keeps its own."""


def entry(name: str, key: str, **settings: float | date | None) -> str:
    """Returns a key's lines, without settings that are None. Raises StartupError if a server would refuse them."""
    if not re.fullmatch(NAME, name):
        raise StartupError(f"NAME is {name!r}; allowed are letters, digits, _ and -, at most 64 of them")
    lines = [f"[keys.{name}]", f'hash = "{fingerprint(key)}"']
    lines += [f"{field} = {_toml(value)}" for field, value in settings.items() if value is not None]
    text = "\n".join([*lines, ""])
    parse_keys(f"the key {name}", text.encode())
    return text


def add(text: str, path: Path) -> None:
    """Appends an entry in one write, so that no server reads half of it. Changes nothing if it raises StartupError."""
    before = content(FLAG, path) if path.exists() else b""
    for name in _names(before) & _names(text.encode()):
        raise StartupError(f"{path} already has a key {name}; choose another name or delete its lines")
    gap = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
    added = gap + text.encode()
    parse_keys(str(path), before + added)
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
    except OSError as error:
        raise StartupError(f"{path} cannot be written ({error.strerror}); see --file") from None
    with os.fdopen(file, "ab", buffering=0) as appending:
        appending.write(added)


def _names(toml: bytes) -> set[str]:
    """Returns the names of the keys in a file, however they are written; none if it is broken."""
    try:
        keys = parsed(toml).get("keys")
    except (ValueError, RecursionError):
        return set()
    return set(keys) if isinstance(keys, dict) else set()


def _toml(value: float | date) -> str:
    return value.isoformat() if isinstance(value, date) else f"{value:.15g}"
