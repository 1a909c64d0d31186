"""Why a port cannot be opened, in words for the operator."""

import errno
import socket
from typing import Any

BIND_ERRORS = (OSError, UnicodeError)
"""What looking up and binding an address raises; UnicodeError is for names that no host can have."""


TELLING = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
"""What a failure may be, the most telling first: of a name's addresses, some may not exist on this machine."""


def trial(host: str, port: int) -> Exception | None:
    """Binds the host's addresses for a moment. Returns the most telling error, if any: gRPC does not tell it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except BIND_ERRORS as error:
        return error
    errors = [_error_at(family, kind, address) for family, kind, _, _, address in found]
    return min(filter(None, errors), key=_rank, default=None)


def _error_at(family: int, kind: int, address: Any) -> OSError | None:  # noqa: ANN401 - each family has its own type
    try:
        with socket.socket(family, kind) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: old connections may linger
            bound.bind(address)
    except OSError as error:
        return error
    return None


def _rank(error: OSError) -> int:
    return TELLING.index(error.errno) if error.errno in TELLING else len(TELLING)


def reason(error: Exception | None, host_flag: str, port_flag: str) -> str:
    """Returns what the error means, with the remedy."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the name cannot be resolved; check {host_flag}"
    match error.errno if isinstance(error, OSError) else None:
        case errno.EADDRINUSE:
            return f"another program listens there; stop it, or set another {port_flag}"
        case errno.EADDRNOTAVAIL:
            return f"this machine does not have that address; check {host_flag}"
        case errno.EACCES:
            return f"this user may not open that port; set a {port_flag} of 1024 or more"
    return f"check {host_flag} and {port_flag}"
