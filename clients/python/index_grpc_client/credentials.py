"""TLS credentials from files."""

from pathlib import Path

import grpc


def tls_credentials(
    ca: Path | str | None = None, *, cert: Path | str | None = None, key: Path | str | None = None
) -> grpc.ChannelCredentials:
    """Returns credentials for the argument `credentials` of a client.

    Args:
        ca: PEM file with the certificates to trust, such as the server's own. None trusts the system's authorities.
        cert: PEM file with the client's certificate and its chain, for a server that asks for one.
        key: PEM file with the private key of `cert`.

    Raises:
        ValueError: only one of `cert` and `key` is given.
        OSError: a file cannot be read.
    """
    if (cert is None) != (key is None):
        raise ValueError("cert and key go together: a certificate and its private key; give both")
    return grpc.ssl_channel_credentials(_content(ca), _content(key), _content(cert))


def _content(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
