"""Makes the lines of a new key in a file of API keys."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from io import FileIO
from pathlib import Path

from index_grpc.access.files import content
from index_grpc.access.keys import FLAG, NAME, fingerprint, parse_keys, parsed
from index_grpc.errors import StartupError

MODE = 0o600
"""The permissions of a new file; an existing one keeps its own."""


def entry(name: str, key: str, **settings: float | date | None) -> str:
    """Returns a key's lines, without settings that are None. Raises StartupError if a server would refuse them."""
    if not re.fullmatch(NAME, name):
        raise StartupError(f"NAME is {name!r}; allowed are letters, digits, _ and -, 1 to 64 of them")
    lines = [f"[keys.{name}]", f'hash = "{fingerprint(key)}"']
    lines += [f"{field} = {_toml(value)}" for field, value in settings.items() if value is not None]
    text = "\n".join([*lines, ""])
    parse_keys(f"the key {name}", text.encode())
    return text


def add(text: str, path: Path, show: Callable[[], None]) -> None:
    """Appends an entry in one write, so that no server reads half of it. Raises StartupError if that is not possible.

    Calls `show`, which shows the key to a person, once the entry can be added, but before it is: a key that nobody has
    seen would take its name. If `show` or this raises, the file has no new entry, and a new file is removed.
    """
    added, is_new = _addition(text, path), not os.path.lexists(path)
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
    except OSError as error:
        raise StartupError(f"{path} cannot be written ({error.strerror}); see --file") from None
    with os.fdopen(file, "ab", buffering=0) as appending, _removed_if_in_vain(path if is_new else None):
        show()
        try:
            _append(appending, added)
        except OSError as error:
            remedy = "see --file, and make another key: the printed one is not valid"
            raise StartupError(f"{path} cannot be written ({error.strerror}); {remedy}") from None


@contextmanager
def _removed_if_in_vain(new: Path | None) -> Iterator[None]:
    """Removes a new file if the block raises, unless another process has added a key meanwhile.

    Every server would refuse an empty file.
    """
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what went wrong first matters more
            if new is not None and new.stat().st_size == 0:
                new.unlink()
        raise


def _addition(text: str, path: Path) -> bytes:
    """Returns what to append to the file. Raises StartupError if a server would refuse the file then."""
    before = content(FLAG, path) if path.exists() else b""
    for name in _names(before) & _names(text.encode()):
        raise StartupError(f"{path} already has a key {name}; choose another name or delete its lines")
    gap = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
    added = gap + text.encode()
    parse_keys(str(path), before + added)
    return added


def _append(file: FileIO, added: bytes) -> None:
    """Appends all the bytes, or none if it raises OSError."""
    size, written = file.seek(0, os.SEEK_END), 0
    try:
        while written < len(added):  # the rest of what a full disk took a part of: it raises what the matter is
            written += file.write(added[written:])
    except OSError:
        if written:
            file.truncate(size)
        raise


def _names(toml: bytes) -> set[str]:
    """Returns the names of the keys in a file, however they are written; none if it is broken."""
    try:
        keys = parsed(toml).get("keys")
    except (ValueError, RecursionError):
        return set()
    return set(keys) if isinstance(keys, dict) else set()


def _toml(value: float | date) -> str:
    return value.isoformat() if isinstance(value, date) else f"{value:.15g}"
