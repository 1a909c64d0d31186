"""Writes the log in a thread of its own: a reader that stalls holds up no call and no signal."""

import logging
import sys
import threading

from index_grpc.logs.output import LogOutput

MOST_WAITING_RECORDS = 2048
"""How many records may wait to be written; with prompts in the log, they can be some 60 kB each."""
GATHER_SECONDS = 0.01
"""How long the first of them waits for others: one write for all costs a busy event loop much less."""
FLUSH_SECONDS = 1.0
"""How long a process that ends waits for the log's reader."""


class LogWriter(logging.Handler):
    """A handler that formats a record where it is made, and writes it to stderr in a thread.

    A terminal after Ctrl-S, a pipe that nobody reads or a stuck log collector takes no more bytes, and a write then
    waits. When too many records wait, new ones are lost; a record says how many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._output, self._lines = LogOutput(sys.stderr), list[str]()
        self._num_lost, self._is_writing = 0, False
        assert self.lock is not None
        self._change = threading.Condition(self.lock)  # logging holds the lock whenever it calls `emit`
        threading.Thread(target=self._write_on, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        if len(self._lines) == MOST_WAITING_RECORDS:
            self._num_lost += 1
            return
        try:
            self._lines.append(self.format(record))
        except Exception:
            self.handleError(record)
        if len(self._lines) == 1:
            self._change.notify_all()

    def flush(self) -> None:
        """Waits until all is written, for at most FLUSH_SECONDS."""
        self.write_all()

    def write_all(self) -> bool:
        """Does the same, and returns whether all is written."""
        with self._change:
            self._change.notify_all()  # gathers no more
            return self._change.wait_for(lambda: not (self._lines or self._is_writing), FLUSH_SECONDS)

    def _write_on(self) -> None:
        while True:
            lines, num_told = self._gathered()
            num_lost = self._output.write(lines)
            with self._change:
                # The line that tells of losses is the last one: if any line was lost, it was too.
                self._num_lost += num_lost - 1 if num_lost and num_told else num_lost - num_told
                self._is_writing = False
                self._change.notify_all()

    def _gathered(self) -> tuple[list[str], int]:
        """Waits for records, and returns their lines, and how many lost ones the last line tells of."""
        with self._change:
            self._change.wait_for(lambda: self._lines)
            self._change.wait(GATHER_SECONDS)
            lines, self._lines, self._is_writing = self._lines, [], True
            num_told = self._num_lost
            if num_told:
                lines.append(self.format(_loss(num_told)))
        return lines, num_told


def _loss(num_lost: int) -> logging.LogRecord:
    told = "%d records were lost here: the log was not read, or could not be written"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, told, (num_lost,), None)
