"""The flags of `index-grpc serve`: one for each setting, by topic in its help."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from index_grpc.configuration.environment import is_of_kubernetes, variable
from index_grpc.configuration.file import read_settings
from index_grpc.settings import TOPICS, ServeSettings

Command = Callable[..., None]


class Switch(click.types.BoolParamType):
    """A boolean that is never empty: click's error lists the values, and begins with the empty one."""

    def __init__(self) -> None:
        self.bool_states = {state: is_on for state, is_on in type(self).bool_states.items() if state}


class SettingOption(click.Option):
    """An option that Kubernetes cannot set by accident."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Returns the variable's value, unless Kubernetes has set it for a Service with our name."""
        value = super().resolve_envvar_value(ctx)
        return None if self.envvar and value and is_of_kubernetes(str(self.envvar), value) else value


class CommandByTopic(click.Command):
    """A command whose help groups the settings by topic."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Called by click."""
        records = {parameter.name: parameter.get_help_record(ctx) for parameter in self.get_params(ctx)}
        sections = {title: [records.pop(name) for name in topic.model_fields] for title, topic in TOPICS.items()}
        for title, entries in (sections | {"Options": list(records.values())}).items():
            with formatter.section(title):
                formatter.write_dl([entry for entry in entries if entry])


def settings_options(command: Command) -> Command:
    """Adds a flag for each field of ServeSettings, and `--config` for a file with them."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        envvar=variable("config"),
        show_envvar=True,
        is_eager=True,
        callback=_use_file,
        help="TOML file with settings, named as flags are but with underscores: max_waiting = 64.",
    )
    command = config(command)
    for name, field in reversed(ServeSettings.model_fields.items()):
        command = _option(name, field)(command)
    return command


def _use_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        ctx.default_map = read_settings(path)
    return path


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    flag, kind = name.replace("_", "-"), _click_type(field.annotation)
    return click.option(
        f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",
        name,
        cls=SettingOption,
        envvar=variable(name),
        default=field.default,
        type=Switch() if kind is bool else kind,
        help=field.description,
        show_default=field.default is not None,
        show_envvar=True,
    )


def _click_type(annotation: Any) -> click.Choice[str] | type:  # noqa: ANN401 - a type's own type
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    kinds = {annotation, *get_args(annotation)}  # of `int | None`, too
    return next((kind for kind in (bool, int, float) if kind in kinds), str)
