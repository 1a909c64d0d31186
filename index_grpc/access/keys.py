"""The file of API keys: their names, hashes and limits. The keys themselves are stored nowhere."""

import hashlib
import hmac
import logging
import secrets
import stat
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from index_grpc.access.bounds import LEAST_REQUESTS_PER_MINUTE, MOST_CONCURRENT, MOST_REQUESTS_PER_MINUTE
from index_grpc.access.files import Reloaded, content
from index_grpc.errors import StartupError

FLAG = "--api-keys-file"
PREFIX = "igrpc_"
"""Lets programs that look for leaked secrets recognise a key."""
KEY_BYTES = 32
NAME = r"[A-Za-z0-9_-]{1,64}"
NAME_OF_KEY = "[key]"
"""What pydantic writes behind the place of a name, if the name itself is wrong."""
WORDS = {
    "hash": "should be sha256: and 64 lower-case hexadecimal digits; `index-grpc keys new NAME` makes it",
    NAME_OF_KEY: "allowed are letters, digits, _ and -, 1 to 64 of them",
}
"""What a text should be whose pattern does not match, by the last part of its place."""

log = logging.getLogger(__name__)


def new_key() -> str:
    """Returns a key that nobody can guess: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def fingerprint(key: str) -> str:
    """Returns a key's hash as the file holds it.

    A fast hash is enough: slow ones protect passwords, which can be guessed, but nobody can try 2**256 keys.
    """
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


class Key(BaseModel):
    """One key of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    requests_per_minute: float | None = Field(None, ge=LEAST_REQUESTS_PER_MINUTE, le=MOST_REQUESTS_PER_MINUTE)
    max_concurrent: int | None = Field(None, ge=1, le=MOST_CONCURRENT)
    expires: Annotated[datetime | None, AfterValidator(lambda instant: _in_utc(instant))] = None
    """A date alone means the beginning of that day; without a time zone it is in UTC."""

    @property
    def has_expired(self) -> bool:
        """Whether the key has expired."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


class Keys(BaseModel):
    """All keys by their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: dict[Annotated[str, StringConstraints(pattern=f"^{NAME}$")], Key] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        names: dict[str, str] = {}
        for name, key in self.keys.items():
            if key.hash in names:
                raise PydanticCustomError("twice", f"{names[key.hash]} and {name} are the same key; make another")
            names[key.hash] = name
        return self

    def find(self, presented: str) -> tuple[str, Key] | None:
        """Returns the name and key that match, if any, in a time that does not depend on which or how nearly."""
        given, found = fingerprint(presented), None
        for name, key in self.keys.items():
            if hmac.compare_digest(key.hash, given):
                found = name, key
        return found


def key_file(path: Path) -> Reloaded[Keys]:
    """Returns the file's keys, which are read again when it changes. Raises StartupError if it cannot be used."""
    return Reloaded(f"the API keys of {path}", [path], lambda: read_keys(path))


def read_keys(path: Path) -> Keys:
    """Reads a file of keys. Raises StartupError with the line or the name of what is wrong."""
    found = parse_keys(f"{FLAG} {path}", content(FLAG, path))
    if path.stat().st_mode & stat.S_IWOTH:
        log.warning("%s %s is writable by every user, who could add keys; run chmod 600 on it", FLAG, path)
    return found


def parsed(toml: bytes) -> dict[str, Any]:
    """Returns the file's values. Raises ValueError or RecursionError if it is not valid TOML."""
    return tomllib.loads(toml.decode("utf-8-sig"))  # some editors begin a file with a byte order mark


def parse_keys(place: str, toml: bytes) -> Keys:
    """Parses a file of keys. Raises StartupError, which names the place."""
    try:
        return Keys.model_validate(parsed(toml))
    except ValidationError as error:
        raise StartupError(f"{place}: {_first(error)}") from None
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{place} is not valid TOML: {error}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != NAME_OF_KEY)
    if first["type"] == "missing" and place == "keys":
        return "it holds no keys; `index-grpc keys new NAME --file FILE` adds one"
    words = WORDS[str(first["loc"][-1])] if first["type"] == "string_pattern_mismatch" else first["msg"]
    return f"{place}: {words}" if place else words


def _in_utc(instant: datetime | None) -> datetime | None:
    return instant.replace(tzinfo=UTC) if instant is not None and instant.tzinfo is None else instant
