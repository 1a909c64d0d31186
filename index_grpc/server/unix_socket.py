"""A unix socket to listen on. gRPC would take its path from a living server, and let everyone look in."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index_grpc.errors import StartupError

FLAG = "--unix-socket"
MOST_PATH_BYTES = 107
"""What Linux takes."""
ALL = 0o777


def require_free(path: Path) -> None:
    """Raises StartupError unless a socket can be made there, or one is there that no server listens on any more."""
    if len(os.fsencode(path)) > MOST_PATH_BYTES:
        problem = f"has {len(os.fsencode(path))} bytes; the path of a socket has at most {MOST_PATH_BYTES}"
        raise StartupError(f"{FLAG} {path} {problem}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise StartupError(f"{FLAG} {path}: {path.parent} is no directory where sockets can be made")
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise StartupError(f"{FLAG} {path} is there and is no socket; name another path or delete it")
    if _is_listened_on(path):
        raise StartupError(f"{FLAG} {path} is another server's, which is running; name another path or stop that one")


@contextmanager
def permissions(mode: int) -> Iterator[None]:
    """What is made meanwhile never has wider permissions than these."""
    before = os.umask(ALL & ~mode)
    try:
        yield
    finally:
        os.umask(before)


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as calling:
        try:
            calling.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # not ours to judge: better to refuse than to take it from someone
            return True
    return True
