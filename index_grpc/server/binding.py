"""Why a port cannot be opened, in words for the operator."""

import errno
import socket

BIND_ERRORS = (OSError, UnicodeError)
"""What looking up and binding an address raises; UnicodeError is for names that no host can have."""


def trial(host: str, port: int) -> Exception | None:
    """Binds the address for a moment. Returns the error if that is not possible: gRPC does not tell it."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as bound:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: old connections may linger
                bound.bind(address)
    except BIND_ERRORS as error:
        return error
    return None


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
