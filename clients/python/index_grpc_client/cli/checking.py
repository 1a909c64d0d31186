"""Reports values that cannot be sent as a wrong command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import click
from click.core import ParameterSource

Value = TypeVar("Value")
OptionCallback: TypeAlias = Callable[[click.Context, click.Parameter, Value | None], Value | None]


def origin(ctx: click.Context, parameter: click.Parameter) -> str:
    """Returns the name of what set an option: its environment variable, or the option itself."""
    is_from_environment = ctx.get_parameter_source(str(parameter.name)) is ParameterSource.ENVIRONMENT
    return str(parameter.envvar) if is_from_environment else parameter.opts[0]


def checked(allowed: Callable[[Value, str], object]) -> OptionCallback[Value]:
    """Returns an option's callback, which refuses the values that `allowed` refuses, and names where they are from."""

    def check(ctx: click.Context, parameter: click.Parameter, value: Value | None) -> Value | None:
        try:
            if value is not None:
                allowed(value, origin(ctx, parameter))
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from error
        return value

    return check


@contextmanager
def refusing() -> Iterator[None]:
    """Reports a ValueError of the block, which only checks values, as a wrong command line."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error
