"""A log that nobody reads holds up neither calls nor signals."""

import fcntl
import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from index_grpc_client import Client

from index_grpc.logs.output import LogOutput
from index_grpc.logs.writer import MOST_WAITING_RECORDS, LogWriter
from tests.process import INDEX_GRPC, MOST_SECONDS_TO_EXIT

PIPE_BYTES = 4096
NUM_CALLS = 100
"""Their lines need several times PIPE_BYTES."""


@contextmanager
def unread_server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server, and its address, whose log nobody reads any more once it is ready."""
    command = [INDEX_GRPC, "serve", "--port", "0", "--grace-seconds", "1", "--drain-delay-seconds", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        text = ""
        while not (found := re.search(r"--address (\S+)", text)):
            text += os.read(process.stderr.fileno(), PIPE_BYTES).decode()
        try:
            yield process, found[1]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reader_that_stalls_holds_up_neither_calls_nor_signals(number: signal.Signals) -> None:
    with unread_server() as (process, address), Client(address, timeout=10) as client:
        for _ in range(NUM_CALLS):
            client.count_tokens("Hi")
        process.send_signal(number)
        assert process.wait(MOST_SECONDS_TO_EXIT) == 0


class StalledStream(io.StringIO):
    """A stream whose writes wait until its reader goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.goes_on = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.waits.set()
        self.goes_on.wait(30)
        return super().write(text)


def test_records_that_found_no_room_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_grpc.logs.writer.FLUSH_SECONDS", 0.01)
    monkeypatch.setattr("sys.stderr", stream := StalledStream())
    logger = logging.Logger("stalled")
    logger.addHandler(writer := LogWriter())
    logger.info("first")
    assert stream.waits.wait(30)
    for number in range(MOST_WAITING_RECORDS + 10):
        logger.info("%d", number)
    assert not writer.write_all()
    stream.goes_on.set()
    while not writer.write_all():
        pass
    logger.info("last")
    while not writer.write_all():
        pass
    kept = ["first", *map(str, range(MOST_WAITING_RECORDS))]
    lost = "10 records were lost here: the log was not read, or could not be written"
    assert stream.getvalue().splitlines() == [*kept, lost, "last"]


def test_a_pipe_that_does_not_block_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(writing, False)
    with open(writing, "w") as stream, open(reading) as pipe:
        monkeypatch.setattr("sys.stderr", stream)
        logger = logging.Logger("unblocked")
        logger.addHandler(LogWriter())
        for number in range(MOST_WAITING_RECORDS // 2):
            logger.info("%0100d", number)
        read = [pipe.readline() for _ in range(MOST_WAITING_RECORDS // 2)]
    assert read == [f"{number:0100}\n" for number in range(MOST_WAITING_RECORDS // 2)]


def test_lines_that_could_not_be_written_are_counted() -> None:
    with open("/dev/full", "w") as full:
        assert LogOutput(full).write(["one", "two"]) == 2


def test_no_loss_is_forgotten_while_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as stream, open(tmp_path / "log", "w") as file:
        monkeypatch.setattr("sys.stderr", stream)
        logger = logging.Logger("full")
        logger.addHandler(writer := LogWriter())
        for number in range(5):
            if number == 4:
                os.dup2(file.fileno(), stream.fileno())
            logger.info("%d", number)
            while not writer.write_all():
                pass
        lost = "4 records were lost here: the log was not read, or could not be written"
        assert (tmp_path / "log").read_text().splitlines() == ["4", lost]


FILE_THAT_GROWS_TO_150_BYTES = """
import logging
import resource
from index_grpc.logs.writer import LogWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))
logger = logging.Logger("short")
logger.addHandler(writer := LogWriter())
for letter in "abcd":
    if letter == "d":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    logger.info(letter * 99)
    while not writer.write_all():
        pass
"""


def test_a_line_that_was_written_in_part_is_completed_once_that_is_possible(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as file:
        subprocess.run([sys.executable, "-c", FILE_THAT_GROWS_TO_150_BYTES], stderr=file, check=True)
    lost = "1 records were lost here: the log was not read, or could not be written"
    assert (tmp_path / "log").read_text().splitlines() == ["a" * 99, "b" * 99, "d" * 99, lost]


def test_a_record_is_written_before_its_process_ends() -> None:
    program = "from index_grpc.logs import configure_logging; configure_logging('info', 'text'); import logging\n"
    for end in ("", "import os; from index_grpc.logs import flush_log; flush_log(); os._exit(0)"):
        command = [sys.executable, "-c", f"{program}logging.info('the end')\n{end}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.endswith("INFO the end\n")
