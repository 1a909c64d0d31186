"""A TLS handshake with oneself, in memory: what a caller would say to a certificate."""

import ipaddress
import ssl
from contextlib import suppress
from typing import Any

MOST_FLIGHTS = 8
"""Messages there and back; three suffice."""


def shake_hands(server: ssl.SSLContext, caller: ssl.SSLContext) -> dict[str, Any]:
    """The server's certificate as the caller has verified it. Raises ssl.SSLError if it has not."""
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
    """The names and addresses that the certificate is for, without patterns."""
    named = certificate.get("subjectAltName", ())
    names = [name for kind, name in named if kind == "DNS" and "*" not in name]
    return (*names, *(str(ipaddress.ip_address(name)) for kind, name in named if kind == "IP Address"))
