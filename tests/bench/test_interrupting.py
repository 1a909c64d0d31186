"""Ctrl-C, and the progress that is printed before it."""

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from index_grpc.bench.progress import ERASE_LINE, Progress
from index_grpc.bench.record import Measurement, Record
from tests.background import BackgroundServer

MANY = "100000"


def wait_until(holds: Callable[[], bool]) -> None:
    """Polls for a condition that nothing notifies of."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("default_signal_handlers")
def test_ctrl_c_shows_what_was_measured_and_leaves_the_server_idle(
    server: BackgroundServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    command = [sys.executable, "-m", "index_grpc.bench.command", "--address", server.address]
    arguments = ["--concurrency", "2", "--requests", MANY, "--max-tokens", "9", "--warmup", "0"]
    with subprocess.Popen([*command, *arguments], stdout=-1, stderr=-1, text=True) as process:
        wait_until(lambda: caplog.text.count("method=ChatStream code=OK") > 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    engine = server.app.engine
    assert engine is not None
    wait_until(lambda: engine.num_open == 0)
    assert process.returncode == 130
    assert err == f"concurrency 2: {MANY} requests\n"
    *lines, last = out.splitlines()
    assert any(line.startswith("tokens/s out") for line in lines)
    assert "interrupted: the figures are of what had ended until then" in lines
    everything = json.loads(last)
    assert everything["interrupted"]
    (level,) = everything["levels"]
    assert level["interrupted"]
    assert 0 < level["num_completed"] <= level["num_requests"] < int(MANY)
    assert level["num_unfinished"] == level["num_requests"] - level["num_completed"] <= 2


def some() -> Measurement:
    measurement = Measurement(2, started=time.perf_counter(), num_messages=9)
    measurement.opened()
    measurement.opened()
    measurement.closed(Record(0.0, 0.0, error="UNAVAILABLE"))
    return measurement


def test_on_a_terminal_one_line_is_overwritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("index_grpc.bench.progress.TERMINAL_SECONDS", 0.0)
    progress = Progress()
    progress.begin("concurrency 2", 4)
    progress.news(some())
    progress.end()
    nothing, begun, news, ended = capsys.readouterr().err.split(ERASE_LINE)
    assert (nothing, begun, ended) == ("", "concurrency 2: 4 requests", "")
    assert news == "concurrency 2: 1 of 4 requests done, 1 open, 9 messages, 1 errors, 0 s"[:79]


def test_outside_a_terminal_few_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.begin("concurrency 2", 4)
    for _ in range(100):
        progress.news(some())
    progress.end()
    assert capsys.readouterr().err == "concurrency 2: 4 requests\n"
