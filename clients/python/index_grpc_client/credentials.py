"""Encryption from files."""

from pathlib import Path

import grpc


def tls_credentials(
    ca: Path | str | None = None, *, cert: Path | str | None = None, key: Path | str | None = None
) -> grpc.ChannelCredentials:
    """Returns the `credentials` of a client that encrypts.

    Args:
        ca: PEM file of the certificates to trust, which may be the server's own; None trusts the system's authorities.
        cert: PEM file of the certificate to show to a server that asks for one, with its chain.
        key: PEM file of that certificate's private key.

    Raises:
        ValueError: only one of `cert` and `key` is given.
        OSError: a file cannot be read.
    """
    if (cert is None) != (key is None):
        raise ValueError("cert and key go together: a certificate and its private key; give both")
    return grpc.ssl_channel_credentials(_content(ca), _content(key), _content(cert))


def _content(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
