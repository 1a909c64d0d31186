"""Writes the log in a thread of its own: a reader that stalls holds up no call and no signal."""

import logging
import queue
from logging.handlers import QueueHandler, QueueListener

MOST_WAITING_RECORDS = 2048
"""How many records may wait to be written; with prompts in the log, they can be some 60 kB each."""
FLUSH_SECONDS = 1.0
"""How long a process that ends waits for the log's reader."""


class LogWriter(QueueHandler):
    """A handler that formats a record where it is made, and writes it to stderr in a thread.

    A terminal after Ctrl-S, a pipe that nobody reads or a stuck log collector takes no more bytes, and a write then
    waits. When too many records wait, new ones are lost; the next one that is not is preceded by their number.
    """

    def __init__(self) -> None:
        self._records: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING_RECORDS)
        self._num_lost = 0
        super().__init__(self._records)
        QueueListener(self._records, logging.StreamHandler()).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Called by logging, which lets one thread in at a time."""
        try:
            if self._num_lost:
                self._records.put_nowait(self.prepare(_loss(self._num_lost)))
                self._num_lost = 0
            self._records.put_nowait(record)
        except queue.Full:
            self._num_lost += 1

    def flush(self) -> None:
        """Waits until all is written, for at most FLUSH_SECONDS."""
        self.write_all()

    def write_all(self) -> bool:
        """Does the same, and returns whether all is written."""
        written = self._records.all_tasks_done
        with written:
            return written.wait_for(lambda: not self._records.unfinished_tasks, FLUSH_SECONDS)


def _loss(num_lost: int) -> logging.LogRecord:
    told = "%d records were lost here, since the log was not read"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, told, (num_lost,), None)
