"""How commands fail: one `error:` line, what is wrong with the request, a `hint:` line, and an exit code."""

import os
from enum import IntEnum

import click
import grpc

from index_grpc_client.errors import (
    DeadlineError,
    IndexGrpcError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    UnauthenticatedError,
    UnavailableError,
)


class Exit(IntEnum):
    """The exit codes beside 0 and click's 2."""

    REFUSED = 1
    UNAVAILABLE = 3
    TIMEOUT = 4
    INTERRUPTED = 130


EXIT_CODES = """\b
Exit codes:
  0    done; health: the service is serving
  1    the server refused or failed; health: the service is not serving
  2    the command line is wrong
  3    the server cannot be reached, or is loading, full or stopping
  4    the timeout passed
  130  interrupted by Ctrl-C"""


def complain(word: str, text: str) -> None:
    """Writes `word: text` to stderr, the word in colour where a person looks on."""
    colour = {"error": "red", "hint": "cyan", "note": "yellow"}[word]
    click.echo(f"{click.style(word, fg=colour)}: {text}", err=True, color=False if os.environ.get("NO_COLOR") else None)


def exit_code(error: IndexGrpcError) -> Exit:
    """Returns what to exit with after the error."""
    match error:
        case UnavailableError():
            return Exit.UNAVAILABLE
        case DeadlineError():
            return Exit.TIMEOUT
    return Exit.REFUSED


def hint(error: IndexGrpcError, address: str) -> str | None:
    """Returns what to try next."""
    match error:
        case UnavailableError(retry_after=float(pause)):
            return f"the server asks to try again in {pause:g} s"
        case UnavailableError() if "unhealthy" in error.details():
            return "the server is up but not serving: it is loading or about to stop; `index-client health` asks it"
        case UnavailableError():
            return f"is a server running at {address}? --address or INDEX_GRPC_ADDRESS names another"
        case DeadlineError():
            return "--timeout gives it longer, --max-tokens asks for less"
        case UnauthenticatedError():
            return "--api-key or INDEX_GRPC_API_KEY gives the key"
        case ModelNotFoundError():
            return "`index-client model` tells which model is served"
        case InvalidRequestError():
            return "`index-client ask --help` lists the options' ranges"
        case InternalError(request_id=str(request_id)) if request_id:
            return f"the server's log tells more of request {request_id}"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"the server at {address} may not be an index-grpc server"
    return None


def report(error: IndexGrpcError, address: str) -> None:
    """Tells a person of the error."""
    complain("error", error.details() or error.code().name)
    for violation in error.violations:
        click.echo(f"  {violation.field}: {violation.description}", err=True)
    if advice := hint(error, address):
        complain("hint", advice)
