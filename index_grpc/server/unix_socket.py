"""Checks a unix socket before gRPC listens on it: gRPC would take a running server's path, and let every user in."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index_grpc.errors import StartupError

FLAG = "--unix-socket"
MOST_PATH_BYTES = 107
"""The longest path of a socket on Linux."""
ALL = 0o777


def require_free(path: Path) -> None:
    """Raises StartupError unless a socket can be made at the path. A socket without a listening server may be there."""
    if len(os.fsencode(path)) > MOST_PATH_BYTES:
        problem = f"has {len(os.fsencode(path))} bytes; the path of a socket has at most {MOST_PATH_BYTES}"
        raise StartupError(f"{FLAG} {path} {problem}")
    if "," in str(path):  # even if it is encoded: they split an address after decoding it
        problem = "has a comma, at which gRPC's clients split an address; name a path without one"
        raise StartupError(f"{FLAG} {path} {problem}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise StartupError(f"{FLAG} {path}: {path.parent} is not a directory in which this user may create a socket")
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise StartupError(f"{FLAG} {path} exists and is not a socket; name another path or delete it")
    if _is_listened_on(path):
        raise StartupError(f"{FLAG} {path} is in use by a running server; name another path or stop that server")


@contextmanager
def permissions(mode: int) -> Iterator[None]:
    """Ensures that files made inside the block never have wider permissions than `mode`."""
    before = os.umask(ALL & ~mode)
    try:
        yield
    finally:
        os.umask(before)


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as calling:
        calling.setblocking(False)  # a server that has stopped accepting may never have room for one more connection
        try:
            calling.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # unclear: better to refuse than to take it from a server
            return True
    return True
