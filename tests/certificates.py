"""Certificate authorities for tests, and files with the certificates that they sign."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import trustme
from cryptography.hazmat.primitives import serialization

BEGIN, END = datetime(2019, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, each in a file."""

    cert: Path
    key: Path


def authority(path: Path) -> trustme.CA:
    """A new authority; writes its certificate to the file."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(path))
    return made


def issued(by: trustme.CA, folder: Path, name: str, *hosts: str, expired: bool = False) -> Pair:
    """A certificate for hosts; replaces files of that name."""
    begin, end = (BEGIN, END) if expired else (None, None)
    signed = by.issue_cert(*hosts, not_before=begin, not_after=end)
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    pair.cert.write_bytes(b"".join(pem.bytes() for pem in signed.cert_chain_pems))
    pair.key.write_bytes(signed.private_key_pem.bytes())
    return pair


def trusting(ca: trustme.CA, shown: Pair | None = None) -> grpc.ChannelCredentials:
    """Credentials of a caller that trusts an authority, with the caller's own certificate if one is given."""
    if shown is None:
        return grpc.ssl_channel_credentials(ca.cert_pem.bytes())
    return grpc.ssl_channel_credentials(ca.cert_pem.bytes(), shown.key.read_bytes(), shown.cert.read_bytes())


def lock(key: Path) -> None:
    """Encrypts the key in a file with a password."""
    unlocked = serialization.load_pem_private_key(key.read_bytes(), None)
    form, lock = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(unlocked.private_bytes(serialization.Encoding.PEM, form, lock))
