"""Reports progress on stderr while a level runs: on a terminal a changing line, otherwise a line now and then."""

import shutil
import sys
import time
from collections.abc import Iterable

import click

from index_grpc.bench.record import Measurement

TERMINAL_SECONDS, PLAIN_SECONDS = 0.1, 10.0
"""The shortest time between two reports."""
ERASE_LINE = "\r\x1b[K"


class Progress:
    """Reports on one measurement after another."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._pause = TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS
        self._label, self._total, self._next = "", 0, 0.0

    def begin(self, label: str, total: int) -> None:
        """Begins a level of `total` requests."""
        self._label, self._total, self._next = label, total, time.perf_counter() + self._pause
        self._tell(f"{label}: {total} requests")

    def news(self, measurement: Measurement) -> None:
        """Reports the present numbers if it is time. Otherwise it is cheap, since it is called for each message."""
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + self._pause
        words = [f"{len(measurement.records)} of {self._total} requests done", f"{measurement.num_open} open"]
        words.append(f"{measurement.num_messages} messages")
        words += _counted_errors(record.error for record in measurement.records)
        words.append(f"{now - measurement.started:.0f} s")
        self._tell(f"{self._label}: {', '.join(words)}")

    def end(self) -> None:
        """Erases the changing line, once all levels are done."""
        if self._terminal:
            click.echo(ERASE_LINE, nl=False, err=True)

    def _tell(self, text: str) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns
            click.echo(f"{ERASE_LINE}{text[: width - 1]}", nl=False, err=True, color=True)
        else:
            click.echo(text, err=True)


def _counted_errors(errors: Iterable[str]) -> list[str]:
    count = sum(map(bool, errors))
    return [f"{count} errors"] if count else []
