"""How failures are reported: an `error:` line, the request's mistakes, a `hint:` line, and an exit code."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import click
import grpc

from index_grpc_client.channel import has_port, has_scheme, host_names, is_local
from index_grpc_client.cli.output import VISIBLE
from index_grpc_client.errors import (
    CallCancelledError,
    DeadlineError,
    IncompleteAnswerError,
    IndexGrpcError,
    InternalError,
    InvalidRequestError,
    LimitExceededError,
    ModelNotFoundError,
    UnauthenticatedError,
    UnavailableError,
    was_too_large,
)
from index_grpc_client.request import QUICK_TIMEOUT


class Exit(IntEnum):
    """The exit codes besides 0 and click's 2."""

    REFUSED = 1
    UNAVAILABLE = 3
    TIMEOUT = 4
    INTERRUPTED = 130


EXIT_CODES = """\b
Exit codes:
  0    done; health: the service is serving
  1    the server refused or failed; health: the service is not serving
  2    the command line is wrong
  3    the server cannot be reached, is loading, full or stopping, or was lost during its answer
  4    the timeout passed, or no answer could begin in time; health --wait: still not serving
  130  interrupted by Ctrl-C"""


@dataclass(frozen=True)
class Call:
    """What a report says about the call that failed."""

    address: str
    timeout: float
    """In seconds."""
    generates: bool
    """Whether the call asks for an answer, whose length --max-tokens limits."""


def complain(word: str, text: str) -> None:
    """Writes `word: text` to stderr if that is possible. At a terminal the word is in colour.

    The text may be a server's, so its control characters are made visible.
    """
    colour = {"error": "red", "hint": "cyan", "note": "yellow"}[word]
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    line = f"{click.style(word, fg=colour)}: {text.translate(VISIBLE)}"
    with suppress(OSError):
        click.echo(line, err=True, color=False if is_plain else None)


def exit_code(error: IndexGrpcError) -> Exit:
    """Returns the exit code after an error."""
    match error:
        case UnavailableError():
            return Exit.UNAVAILABLE
        case DeadlineError():
            return Exit.TIMEOUT
    return Exit.REFUSED


def was_cut_off(error: IndexGrpcError) -> bool:
    """Returns whether the server or the connection was lost during an answer."""
    return isinstance(error, IncompleteAnswerError) or (isinstance(error, CallCancelledError) and bool(error.text))


def was_too_slow(error: IndexGrpcError) -> bool:
    """Returns whether gRPC ended the call because its timeout passed."""
    return isinstance(error, DeadlineError) and not error.reason and "Deadline Exceeded" in error.details()


def was_unreachable(error: IndexGrpcError) -> bool:
    """Returns whether gRPC reports that the server is unavailable. A server that reports it itself gives a reason."""
    return isinstance(error, UnavailableError) and not error.reason


PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""The environment variables that gRPC reads, in this order; the first that is set counts. Not used for paths."""

HINT_HTTP = "that is an HTTP port; --address or INDEX_GRPC_ADDRESS must name the server's port for gRPC"

HINTS_ON_CONNECTING = {
    "certificate has expired": "the server's operator must renew its certificate",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not trusted; --ca names a file of certificates to trust",
    "Hostname Verification": "the server's certificate is for another host name; --server-name sets the name to expect",
    "WRONG_VERSION_NUMBER": "the server does not encrypt; leave out --tls, --ca, --cert and --key",
    "security handshaker": "the files of --ca, --cert and --key must be PEM, and --key must belong to --cert",
    "http1.x server": HINT_HTTP,
    "Expected SETTINGS frame": HINT_HTTP,
    "missing selected ALPN": HINT_HTTP,
    "Socket closed": "if the server encrypts, add --tls or --ca; if it asks for a certificate, add --cert and --key",
}
"""Hints for calls without a connection, by a part of gRPC's message."""


HINTS_ON_KEYS = {
    "KEY_MISSING": "give the key with --api-key or INDEX_GRPC_API_KEY",
    "KEY_WRONG": "check the key in --api-key or INDEX_GRPC_API_KEY",
    "KEY_EXPIRED": "check the key in --api-key or INDEX_GRPC_API_KEY",
}
"""Hints for refused keys, by the error's reason."""

HINT_TOO_SLOW = "allow more time with --timeout"
HINT_TOO_LONG = f"{HINT_TOO_SLOW}, or ask for a shorter answer with --max-tokens"
HINT_TOO_LATE = "a longer --time-limit or --timeout leaves time for an answer"
"""For a server that refused because too little time was left. Either option may have set that time."""


def hint_if_unavailable(error: UnavailableError, address: str) -> str:
    """Returns a hint for a server that cannot answer now."""
    if error.retry_after is not None:
        return f"the server asks to try again in {error.retry_after:g} s"
    for sign, advice in HINTS_ON_CONNECTING.items():
        if "last error" in error.details() and sign in error.details():
            return advice
    if not (has_scheme(address) or has_port(address)):
        return "the address has no port, so port 443 was used; --address HOST:PORT sets another port"
    if not is_local(address) and (proxy := next((name for name in PROXIES if os.environ.get(name)), None)):
        hosts = ",".join(host_names(address))
        return f"{proxy} is set, so gRPC connects through that proxy; with no_proxy={hosts} it connects directly"
    return f"is a server running at {address}? --address or INDEX_GRPC_ADDRESS names another"


def hint_if_too_much(error: LimitExceededError) -> str | None:
    """Returns a hint for a call that exceeded a limit, or None."""
    if error.retry_after is not None:
        is_said = "try again in" in error.details()
        return None if is_said else f"the server asks to try again in {error.retry_after:g} s"
    if was_too_large(error):
        return "messages of this size are not allowed; shorten the prompt"
    return None


def hint_if_late(error: DeadlineError, call: Call) -> str | None:
    """Returns a hint for a call that had too little time, or None if the command allows no more."""
    if isinstance(error.__cause__, UnavailableError):  # of a wait for readiness
        return hint_if_unavailable(error.__cause__, call.address)
    if error.reason:
        return HINT_TOO_LATE
    if call.generates:
        return HINT_TOO_LONG
    return HINT_TOO_SLOW if was_too_slow(error) and call.timeout < QUICK_TIMEOUT else None


def hint(error: IndexGrpcError, call: Call) -> str | None:
    """Returns a hint about what to try next, or None."""
    if was_cut_off(error):
        return "the server stopped or the connection was lost; ask again"
    match error:
        case UnavailableError():
            return hint_if_unavailable(error, call.address)
        case DeadlineError():
            return hint_if_late(error, call)
        case UnauthenticatedError():
            return HINTS_ON_KEYS.get(error.reason)
        case LimitExceededError():
            return hint_if_too_much(error)
        case ModelNotFoundError():
            return "`index-client model` shows which model is served"
        case InvalidRequestError() if any(violation.field != "prompt" for violation in error.violations):
            return "`index-client ask --help` lists the options' ranges"
        case InternalError(request_id=str(request_id)) if request_id:
            return f"the server's log says more about request {request_id}"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"the server at {call.address} may not be an index-grpc server"
    return None


def summary(error: IndexGrpcError, violations: list[str], call: Call) -> str:
    """Returns the `error:` line. The server's message has the first violation and the number of all others."""
    message, num_sent = error.details() or error.code().name, len(violations)
    if num_sent == 1:
        return message if violations[0] in message else violations[0]
    if num_sent:
        more = re.search(r"\(and (at least )?(\d+) more violations?\)$", message)
        num_found = int(more[2]) + 1 if more else num_sent
        wrong = f"{(more and more[1]) or ''}{num_found} things are wrong with the request"
        return f"{wrong}:" if num_found == num_sent else f"{wrong}, the first {num_sent} are:"
    if was_cut_off(error):
        return f"the answer was cut off: {message}"
    if was_too_slow(error):
        return f"{call.address} did not {'finish its answer' if error.text else 'answer'} within {call.timeout:g} s"
    return f"{call.address} cannot be reached: {message}" if was_unreachable(error) else message


def report(error: IndexGrpcError, call: Call) -> None:
    """Writes the error for a person: the `error:` line, several violations one a line, and a hint."""
    violations = [f"{violation.field}: {violation.description}" for violation in error.violations]
    complain("error", summary(error, violations, call))
    for violation in violations if len(violations) > 1 else ():
        with suppress(OSError):
            click.echo(f"  {violation.translate(VISIBLE)}", err=True)
    if advice := hint(error, call):
        complain("hint", advice)
