"""The flags of `index-grpc bench`, and the plan that they make. Imports no slow modules."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from index_grpc.bench.plan import Mode, Plan

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_CONCURRENCY = (1, 4, 16, 32)
DEFAULT_DURATION_SECONDS = 30.0
PICTURES = (".png", ".svg", ".pdf")

Command = Callable[..., Any]

PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


def numbers(kind: Callable[[str], float], most: float) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Returns a click callback: `1,4,16` → (1, 4, 16), each above 0 and at most `most`."""

    def parse(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        try:
            found = tuple(kind(word) for word in value.split(","))
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise click.BadParameter(f"{value!r} is no list of {what}, such as 1,4,16") from None
        if wrong := [number for number in found if not 0 < number <= most]:
            raise click.BadParameter(f"{wrong[0]:g} is in it; each is above 0 and at most {most:g}")
        if len(set(found)) < len(found):
            raise click.BadParameter(f"{value!r} names a number twice; each is measured once")
        return found

    return parse


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuses nan, which click takes for a number within every range."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is no number")
    return value


def picture(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuses, before the measurement, a file that could not be written after it."""
    if path and path.suffix.lower() not in PICTURES:
        raise click.BadParameter(f"{path.name!r} does not end in one of {', '.join(PICTURES)}")
    if path and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.absolute().parent}")
    return path


OPTIONS = [
    click.option(
        "--address",
        envvar="INDEX_GRPC_ADDRESS",
        show_envvar=True,
        default=DEFAULT_ADDRESS,
        help="The server's host:port, or unix:PATH.",
    ),
    click.option(
        "--concurrency",
        metavar="LIST",
        callback=numbers(int, 4096),
        help="Closed loop: so many workers, each with one request open; one measurement each.  [default: 1,4,16,32]",
    ),
    click.option(
        "--rate",
        metavar="LIST",
        callback=numbers(float, 100_000),
        help="Open loop: so many requests a second, at Poisson arrivals, however many are open.",
    ),
    click.option(
        "--turns",
        type=click.IntRange(2, 1000),
        help="Conversations of so many turns, each with the answers before it as history.",
    ),
    click.option(
        "--requests",
        type=click.IntRange(1, 1_000_000),
        help="Requests of each level; conversations are completed.  [default: 4 a worker, at least 8; one conversation "
        "a worker, at least 2]",
    ),
    click.option(
        "--duration",
        type=click.FloatRange(0, 86_400, min_open=True),
        callback=finite,
        help="Open loop: seconds in which requests arrive, in the place of --requests.  [default: 30]",
    ),
    click.option(
        "--prompt-tokens",
        type=click.IntRange(4, 1_000_000),
        default=64,
        help="Tokens of each prompt, control tokens included, on average.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(1, 1_000_000),
        default=64,
        help="A ceiling: the most tokens of an answer, which may end before.",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(0, 2),
        callback=finite,
        help="0 is greedy.  [default: the server's]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        help="Of prompts, arrivals and answers. A second run with the same one asks the same.",
    ),
    click.option(
        "--warmup",
        type=click.IntRange(0, 1_000_000),
        help="Requests before each level that are not counted.  [default: one a worker; 4 in the open loop]",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, 86_400, min_open=True),
        callback=finite,
        default=600.0,
        help="Seconds for an answer.",
    ),
    click.option("--tls", is_flag=True, help="Encrypt, trusting the system's certificate authorities."),
    click.option(
        "--ca",
        type=PEM,
        help="Encrypt, trusting the certificates in this PEM file.",
    ),
    click.option(
        "--cert",
        type=PEM,
        help="Encrypt, showing the certificate in this PEM file; --key has its private key.",
    ),
    click.option(
        "--key",
        type=PEM,
        help="PEM file with the private key of --cert.",
    ),
    click.option("--server-name", help="Host name in the server's certificate, where --address is another."),
    click.option("--api-key", envvar="INDEX_GRPC_API_KEY", show_envvar=True, help="The key the server asks for."),
    click.option(
        "--plot",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        metavar="FILE.png",
        callback=picture,
        help="Draw the levels, as .png, .svg or .pdf; needs the extra index-grpc[plot].",
    ),
    click.option("--json", "as_json", is_flag=True, help="At a terminal too, end with one line of JSON."),
]


def bench_options(command: Command) -> Command:
    """Adds all flags to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def plan(
    concurrency: tuple[float, ...] | None,
    rate: tuple[float, ...] | None,
    turns: int | None,
    requests: int | None,
    duration: float | None,
    warmup: int | None,
    **same: Any,  # noqa: ANN401 - fields of Plan by their names
) -> Plan:
    """Returns the plan. Raises click.UsageError for flags that contradict each other."""
    if rate and (concurrency or turns):
        raise click.UsageError("--rate is the open loop, --concurrency and --turns are the closed one: leave one out")
    if duration and not rate:
        raise click.UsageError("--duration goes with --rate; --requests bounds the closed loop")
    if duration and requests:
        raise click.UsageError("--duration and --requests both bound a level: leave one out")
    mode = Mode.OPEN if rate else Mode.CONVERSATIONS if turns else Mode.CLOSED
    levels = rate or concurrency or DEFAULT_CONCURRENCY
    length = (duration or DEFAULT_DURATION_SECONDS) if rate and not requests else None
    return Plan(mode, levels, requests, length, turns or 1, num_warmup=warmup, **same)
