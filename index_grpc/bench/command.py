"""The command `index-grpc bench`. Imports slow modules only when it runs."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from index_grpc.bench.flags import bench_options, plan
from index_grpc.bench.plan import Plan
from index_grpc.errors import StartupError

if TYPE_CHECKING:
    from index_grpc_client import IndexGrpcError

    from index_grpc.bench.run import Run, Target

INTERRUPTED = 130
"""Exit code; it and those of the errors below are the same as index-client's."""

REACH = ("address", "timeout", "tls", "ca", "cert", "key", "server_name", "api_key")
"""The flags that say how to reach the server."""

EPILOG = """\b
Time to first token is until a stream's first message, which leaves with the
first token; in the open loop it counts from the instant the request was due.
A message may hold several tokens, so two figures tell of the time between
tokens: `gap between messages` is what a reader waits, `time per token` is
(last message - first) / (tokens - 1) of each answer. Tokens are those the
service counted; tokens/s is over a whole level, its beginning and end included.

\b
Only whole answers are in the figures. The client's retries are off, so every
refusal counts, as an error by its status code; a worker that was refused waits
as long as the server asks, 0.1 to 5 s. Errors never end a run.

\b
Prompts are random words, drawn anew for each request. `of them cached` shows
how much of them the server knew all the same, as from an earlier run with the
same --seed.

\b
The last line on stdout is one JSON object with everything, times in seconds;
a terminal shows it only with --json.
Exit codes: 0 measured, 2 wrong flags, 3 the server cannot be reached or is not
ready, 4 it does not answer, 130 interrupted: what was measured is printed."""


ADVICE_ELSEWHERE = "is a server running there, and ready? --address or INDEX_GRPC_ADDRESS names another"


class Unreachable(click.ClickException):
    """The server cannot be reached, or is not ready."""

    exit_code = 3


class TimedOut(click.ClickException):
    """The server does not answer."""

    exit_code = 4


@click.command(epilog=EPILOG, context_settings={"show_default": True})
@bench_options
@click.pass_context
def bench(ctx: click.Context, /, **flags: Any) -> None:  # noqa: ANN401 - the values of bench_options
    """Put load on a running server and measure what its callers see.

    \b
    Examples:
      index-grpc bench --concurrency 1,4,16,32 --plot bench.png
      index-grpc bench --rate 0.5,1,2 --duration 60
      index-grpc bench --turns 10 --concurrency 4
    """
    picture, as_json = flags.pop("plot"), flags.pop("as_json") or not _is_terminal()
    reach = {name: flags.pop(name) for name in REACH}
    if bool(reach["cert"]) != bool(reach["key"]):
        raise click.UsageError("--cert and --key go together; give both")
    if reach["server_name"] and not (reach["tls"] or reach["ca"] or reach["cert"]):
        raise click.UsageError("--server-name goes with --tls, --ca or --cert; add one")
    chosen = plan(**flags)
    if picture:
        _check_matplotlib()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before gRPC is imported, otherwise it logs each connection
    from index_grpc.bench.run import Target

    run, interrupted = _measured(chosen, Target(**reach))
    _show(run, picture, as_json=as_json, interrupted=interrupted)
    if interrupted:
        ctx.exit(INTERRUPTED)


def _measured(chosen: Plan, target: "Target") -> "tuple[Run, bool]":
    """Returns the run, and whether Ctrl-C ended it; before the server has answered, KeyboardInterrupt is passed on."""
    import uvloop
    from index_grpc_client import IndexGrpcError

    from index_grpc.bench.progress import Progress
    from index_grpc.bench.run import Run

    run, interrupted = Run(chosen, target, Progress()), False
    try:
        uvloop.run(run.measure())
    except KeyboardInterrupt:
        if run.server is None:
            raise
        interrupted = True
    except IndexGrpcError as error:
        raise _failure(error, target.address) from error
    except StartupError as error:
        raise click.UsageError(str(error)) from error
    finally:
        run.progress.end()
    return run, interrupted


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # it is None if it was closed from the start


def _show(run: "Run", picture: Path | None, *, as_json: bool, interrupted: bool) -> None:
    from index_grpc.bench.measure import figures
    from index_grpc.bench.report import text, to_json

    levels = [figures(measurement) for measurement in run.measurements]
    click.echo(text(run, levels))
    if interrupted:
        click.echo("\ninterrupted: the figures are of what had ended until then")
    try:
        if picture and any(level.num_completed for level in levels):
            from index_grpc.bench.plot import draw

            draw(run, levels, picture)
            click.echo(f"\ndrawn in {picture}")
    except OSError as error:
        raise click.ClickException(
            f"--plot {picture}: {error.strerror}; the figures are printed all the same"
        ) from error
    finally:
        if as_json:
            click.echo()
            click.echo(to_json(run, levels, interrupted=interrupted))


def _failure(error: "IndexGrpcError", address: str) -> click.ClickException:
    """Returns a one-line error for a server that gave no answer, or refused, at the start."""
    from index_grpc_client.cli.failure import HINTS_ON_KEYS  # slow to import, and not needed before

    advice = HINTS_ON_KEYS.get(error.reason, ADVICE_ELSEWHERE)
    kinds = {"UNAVAILABLE": Unreachable, "DEADLINE_EXCEEDED": TimedOut}
    kind = kinds.get(error.code().name, click.ClickException)
    return kind(f"{address}: {error.details() or error.code().name}; {advice}")


def _check_matplotlib() -> None:
    """Raises ClickException if matplotlib is missing: before the measurement, not after it."""
    if find_spec("matplotlib") is None:
        raise click.ClickException("--plot needs matplotlib: pip install 'index-grpc[plot]'")


if __name__ == "__main__":
    bench()
