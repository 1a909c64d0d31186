"""A TLS handshake in memory, which tests whether a caller would accept a certificate."""

import ipaddress
import ssl
from contextlib import suppress
from typing import Any

MOST_FLIGHTS = 8
"""The most round trips of the handshake; three are enough."""


def shake_hands(server: ssl.SSLContext, caller: ssl.SSLContext) -> dict[str, Any]:
    """Returns the server's certificate as the caller has verified it. Raises ssl.SSLError if the caller refuses it."""
    to_server, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = caller.wrap_bio(to_caller, to_server)
    answering = server.wrap_bio(to_server, to_caller, server_side=True)
    for _ in range(MOST_FLIGHTS):
        try:
            calling.do_handshake()
            return calling.getpeercert() or {}
        except ssl.SSLWantReadError:
            with suppress(ssl.SSLWantReadError):
                answering.do_handshake()
    raise ssl.SSLError("the handshake does not come to an end")


def hosts(certificate: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names and addresses that the certificate is for, without wildcards."""
    named = certificate.get("subjectAltName", ())
    names = [name for kind, name in named if kind == "DNS" and "*" not in name]
    return (*names, *(str(ipaddress.ip_address(name)) for kind, name in named if kind == "IP Address"))
