"""Reads the server's certificate, checks it against its key and tries it before it is used."""

import logging
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from index_grpc.access.files import Reloaded, content
from index_grpc.access.handshake import hosts, shake_hands
from index_grpc.errors import StartupError

CERT, KEY, CLIENT_CA = "--tls-cert", "--tls-key", "--tls-client-ca"

MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons for a key of another certificate; the last is given for different types, such as EC and RSA."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificate and key, as PEM for gRPC and as a context for Python."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    """Callers need a certificate that is signed by one of these; None if they need none."""
    context: ssl.SSLContext = field(repr=False, compare=False)
    hosts: tuple[str, ...] = ()
    """The names and addresses that the certificate is for; empty if no caller will accept it."""


class Encrypted(Exception):
    """The private key is encrypted with a password."""


def certificate_files(cert: Path, key: Path, client_ca: Path | None) -> Reloaded[Certificates]:
    """Returns the files' content, which is read again when they change. Raises StartupError if they cannot be used."""
    paths = [cert, key, *([client_ca] if client_ca else [])]
    return Reloaded(f"the certificate of {cert}", paths, lambda: _read(cert, key, client_ca))


def _read(cert: Path, key: Path, client_ca: Path | None) -> Certificates:
    chain, secret = content(CERT, cert), content(KEY, key)
    caller = _trusting(CERT, cert, chain)
    server = _presenting(cert, key)
    if (chain, secret) != (content(CERT, cert), content(KEY, key)):  # what was tried is not what would be used
        raise StartupError(f"{CERT} {cert} or {KEY} {key} changed while it was read; the next look takes it")
    try:
        names = hosts(shake_hands(server, caller))
    except ssl.SSLError as error:
        problem = getattr(error, "verify_message", "") or error.reason
        log.warning("callers will not accept the certificate of %s %s (%s); renew it", CERT, cert, problem)
        names = ()
    return Certificates(chain, secret, _demanded(server, client_ca), server, names)


def _demanded(server: ssl.SSLContext, client_ca: Path | None) -> bytes | None:
    """Makes the server require callers' certificates. Returns those that must have signed them; None without a file."""
    if client_ca is None:
        return None
    authorities = content(CLIENT_CA, client_ca)
    _trusting(CLIENT_CA, client_ca, authorities)
    server.load_verify_locations(cadata=_in_ascii(authorities))
    server.verify_mode = ssl.CERT_REQUIRED
    return authorities


def _trusting(flag: str, path: Path, pem: bytes) -> ssl.SSLContext:
    """Returns the caller's context, which trusts only the certificates in this PEM. Raises StartupError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=_in_ascii(pem))
    except (ssl.SSLError, ValueError):
        raise StartupError(f"{flag} {path} holds no complete certificate in PEM, -----BEGIN to -----END") from None
    return context


def _in_ascii(pem: bytes) -> str:
    """Returns the PEM with ? for every byte that is not ASCII, since Python takes only ASCII.

    Such bytes stand in comments between the blocks, or break a block, as ? does too.
    """
    return re.sub(rb"[\x80-\xff]", b"?", pem).decode("ascii")


def _presenting(cert: Path, key: Path) -> ssl.SSLContext:
    """Returns the server's context. Raises StartupError if certificate and key cannot be used."""

    def no_password() -> str:
        raise Encrypted

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, no_password)
    except Encrypted:
        raise StartupError(f"{KEY} {key} is encrypted with a password; `openssl pkey` writes it without one") from None
    except OSError as error:  # SSLError is one
        raise StartupError(_misfit(cert, key, error)) from None
    return context


def _misfit(cert: Path, key: Path, error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason in MISMATCHES:
        return f"{KEY} {key} does not match {CERT} {cert}; use the key and the certificate of the same renewal"
    return f"{KEY} {key} is no private key in PEM that goes with {CERT} {cert} ({error})"
