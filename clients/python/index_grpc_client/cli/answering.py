"""The options of the command line that say how to answer."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from index_grpc_client.cli.checking import checked
from index_grpc_client.limits import MOST_UINT32, allowed_time_limit

Command = TypeVar("Command", bound=Callable[..., Any])

UINT32 = click.IntRange(0, MOST_UINT32)
RANGES: dict[str, tuple["click.ParamType[Any]", str]] = {
    "--temperature": (click.FLOAT, "0 to 2; 0 always takes the likeliest token."),
    "--top-p": (click.FLOAT, "Above 0 to 1: draw from the likeliest tokens, up to this sum of probabilities."),
    "--top-k": (UINT32, "How many of the likeliest tokens to draw from; 0 is all."),
    "--min-p": (click.FLOAT, "0 to 1: drop tokens with less than this share of the likeliest token's probability."),
    "--repetition-penalty": (click.FLOAT, "Above 0 to 10, for tokens that occur in prompt or answer; 1 is off."),
    "--frequency-penalty": (click.FLOAT, "-2 to 2, for each time that a token occurs in the answer; 0 is off."),
    "--presence-penalty": (click.FLOAT, "-2 to 2, for tokens that occur in the answer; 0 is off."),
    "--seed": (UINT32, "Makes the answer repeatable."),
    "--max-tokens": (click.IntRange(1, MOST_UINT32), "The most tokens to generate."),
    "--time-limit": (click.FLOAT, "Seconds after which the answer is ended as it is then."),
    "--model": (click.STRING, "The model that must answer; fail if another one is served."),
}

DEFAULTS = "Options that are left out take the server's defaults, which `index-client model` shows."
"""The end of the help of a command with answer_options."""


def answer_options(command: Command) -> Command:
    """Adds the options of AnswerOptions, but not those of log-probabilities, to a command. None has a default."""
    command = click.option("--stop", multiple=True, help="End the answer before this text. May be repeated.")(command)
    for name, (kind, text) in reversed(RANGES.items()):
        check = checked(allowed_time_limit) if name == "--time-limit" else None
        command = click.option(name, type=kind, callback=check, help=text)(command)
    return command
