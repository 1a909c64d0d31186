"""The settings in effect, and where each of them came from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import click
from click.core import ParameterSource
from pydantic import ValidationError

from index_grpc.configuration.environment import refuse_empty_locks, refuse_unknown_variables, variable
from index_grpc.configuration.mistakes import setting_problem
from index_grpc.settings import ServeSettings

Kind = Literal["flag", "environment", "file", "default"]
PRECEDENCE: tuple[Kind, ...] = get_args(Kind)
"""Each source overrides those after it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's value came from."""

    kind: Kind
    written_as: str
    """The setting's name at that place: `--port`, `INDEX_GRPC_PORT`, `serve.toml: port`."""


def effective_settings(ctx: click.Context) -> ServeSettings:
    """Returns the settings from flags, environment, file and defaults. Raises UsageError for the first wrong one."""
    refuse_unknown_variables(os.environ)
    refuse_empty_locks(os.environ)
    try:
        settings = ServeSettings.model_validate({name: ctx.params[name] for name in ServeSettings.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # settings that do not go together
            raise click.UsageError(first["msg"]) from None
        name = str(first["loc"][0])
        raise click.UsageError(setting_problem(error, origin(ctx, name).written_as)) from None
    if settings.unix_socket is not None:
        hosts = ["host"] if settings.http_port is None else []  # HTTP listens on --host beside a unix socket
        _refuse_ignored(ctx, "unix_socket", [*hosts, "port"])
    return settings


def _refuse_ignored(ctx: click.Context, name: str, replaced: Sequence[str]) -> None:
    """Raises UsageError for the first flag or variable that this setting would silently replace.

    What a source names that the setting's own source overrides is replaced on purpose. So is what a file names, since
    `--print-config` writes all settings.
    """
    cause = origin(ctx, name)
    for given in (origin(ctx, other) for other in replaced):
        overrides = PRECEDENCE.index(given.kind) <= PRECEDENCE.index(cause.kind)
        if given.kind in ("flag", "environment") and overrides:
            raise click.UsageError(f"{cause.written_as} is in the place of {given.written_as}; leave one of them out")


def origin(ctx: click.Context, name: str) -> Origin:
    """Returns where the setting's value came from."""
    match ctx.get_parameter_source(name):
        case ParameterSource.COMMANDLINE:
            return Origin("flag", f"--{name.replace('_', '-')}")
        case ParameterSource.ENVIRONMENT:
            return Origin("environment", variable(name))
        case ParameterSource.DEFAULT_MAP:
            return Origin("file", f"{ctx.params['config']}: {name}")
        case _:
            return Origin("default", name)
