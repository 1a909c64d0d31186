"""Reads and writes settings as a TOML file."""

import json
import tomllib
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from index_grpc.configuration.mistakes import closest, setting_problem
from index_grpc.settings import TOPICS, ServeSettings


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the file's settings by name. Raises UsageError with the file's name, and a wrong key and value."""
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))  # some editors begin a file with a byte order mark
        for name, value in values.items():
            _check(path, name, value)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from None
    except RecursionError:
        raise click.UsageError(f"{path}: it is nested too deeply; a setting is a line, as port = 1") from None
    return values


def _check(path: Path, name: str, value: object) -> None:
    """Raises UsageError for a wrong name or value. A file has types, so the text "64" is no number in it."""
    field = ServeSettings.model_fields.get(name)
    if field is None:
        raise click.UsageError(f"{path}: {name} is not a setting; {closest(name, ServeSettings.model_fields)}")
    if isinstance(value, date | time):
        raise click.UsageError(f'{path}: {name} is {value}, a date or time; write text in quotes: {name} = "{value}"')
    try:
        TypeAdapter(field.rebuild_annotation()).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise click.UsageError(setting_problem(error, f"{path}: {name}")) from None


def as_toml(settings: ServeSettings, origins: Mapping[str, str]) -> str:
    """Returns the settings by topic, each with its origin as a comment, for `read_settings`."""
    lines = []
    for title, topic in TOPICS.items():
        lines += ["", f"# {title}"]
        lines += [f"{_line(name, getattr(settings, name))}  # {origins[name]}" for name in topic.model_fields]
    return "\n".join(lines[1:])


def _line(name: str, value: object) -> str:
    if value is None:
        return f"# {name} is not set"
    return f"{name} = {_toml(value)}"


def _toml(value: object) -> str:
    """Returns a value as in JSON, which is valid TOML except for one control character that JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")
