"""Files that may change while the server runs, as a renewed certificate does."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from index_grpc.errors import StartupError

CHECK_SECONDS = 1.0
"""How often files are checked for changes."""

Value = TypeVar("Value")
Stamp = tuple[int, ...] | None

log = logging.getLogger(__name__)


class Reloaded(Generic[Value]):
    """The content of files, read again when they change. If new files are broken, it logs that and keeps the old.

    Kubernetes writes no files but changes symbolic links to others: the inode changes, but the time not always.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], Value]) -> None:
        """Reads the files. Raises StartupError if `read` does."""
        self._what, self._paths, self._read = what, paths, read
        self._stamps = self._looks()  # before reading, so that a change meanwhile is seen the next time
        self.value = read()

    def refresh(self) -> None:
        """Reads the files if they look different from the last time."""
        stamps = self._looks()
        if stamps == self._stamps:
            return
        try:
            value = self._read()
        except StartupError as error:
            self._stamps = stamps
            log.warning("%s; what was read before stays in force", error)
            return
        self._stamps = stamps  # only now, so that after an unexpected exception they are read again
        if value != self.value:
            self.value = value
            log.info("replaced %s", self._what)

    def _looks(self) -> list[Stamp]:
        return [_stamp(path) for path in self._paths]


async def keep_fresh(everything: Sequence[Reloaded[Value]]) -> None:
    """Checks the files for changes for ever, in a thread, since a disk may be slow."""
    told: dict[Reloaded[Value], str] = {}
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        for files in everything:
            try:
                await asyncio.to_thread(files.refresh)
            except Exception as error:
                if told.get(files) != repr(error):  # otherwise the same would be logged at each check
                    log.exception("checking for changed files failed; trying again")
                told[files] = repr(error)


def content(flag: str, path: Path) -> bytes:
    """Returns the file's bytes. Raises StartupError, which names the flag, if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"{flag} {path} cannot be read ({error.strerror}); check its path and permissions") from None


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
