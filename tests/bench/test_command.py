"""The command against a real server."""

import logging
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from index_grpc.access.keys import fingerprint
from index_grpc.bench.command import bench
from tests.background import BackgroundServer
from tests.certificates import authority, issued
from tests.scripted import CONTEXT_LENGTH

from .conftest import Run, run_bench, serving


def test_a_closed_loop(run: Run, server: BackgroundServer) -> None:
    result, everything = run("--concurrency", "1,3", "--requests", "6", "--prompt-tokens", "40", "--max-tokens", "5")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "warm-up for concurrency 1: 1 requests",
        "concurrency 1: 6 requests",
        "warm-up for concurrency 3: 3 requests",
        "concurrency 3: 6 requests",
    ]
    assert not everything["interrupted"]
    assert everything["server"]["model"] == "random"
    assert everything["settings"]["address"] == server.address
    assert everything["settings"]["max_tokens"] == 5
    assert [level["level"] for level in everything["levels"]] == [1, 3]
    for level in everything["levels"]:
        assert (level["num_requests"], level["num_completed"], level["errors"]) == (6, 6, {})
        assert 6 < level["completion_tokens"] <= 30
        assert sum(level["finish_reasons"].values()) == 6
        assert level["most_open"] <= level["level"]
        assert abs(level["prompt_tokens"]["mean"] - 40) < 10
        assert 0 < level["time_to_first_token_s"]["p50"] <= level["end_to_end_s"]["p50"] < level["duration_s"]
        assert level["turns"] == []


def test_the_table(run: Run) -> None:
    result, everything = run("--concurrency", "1,2", "--requests", "4", "--max-tokens", "5", "--temperature", "0")
    lines = result.stdout.splitlines()
    assert lines[0] == f"random on cpu (float32), index-grpc {everything['server']['server_version']}"
    assert lines[1] == "about 64 prompt tokens, at most 5 new · temperature 0, seed 0"
    rows = {line[:26].strip(): line[26:].split() for line in lines[3:-2] if line[:2].strip()}
    assert (rows["concurrency"], rows["requests"], rows["answers"]) == (["1", "2"], ["4", "4"], ["4", "4"])
    assert all(1 < float(cell) <= 5 for cell in rows["tokens an answer"])
    for name in ("time to first token, ms", "end to end, ms"):
        assert rows[name][0] == "p50"
        assert all(float(cell) > 0 for cell in rows[name][1:])
    for name in ("time per token, ms", "gap between messages, ms"):
        assert rows[name][0] == "p50"
        assert all(float(cell) >= 0 for cell in rows[name][1:])  # 0.0 where messages are read at once
    assert not any("errors" in line for line in lines[:-1])


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_terminal_shows_the_json_only_if_it_is_asked_for(
    server: BackgroundServer, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    words = ["--address", server.address, "--concurrency", "1", "--requests", "1", "--max-tokens", "1", *flags]
    lines = CliRunner().invoke(bench, words, catch_exceptions=False).stdout.splitlines()
    assert any(line.startswith("tokens/s out") for line in lines)
    assert any(line.startswith("{") for line in lines) == bool(flags)
    assert lines[-1]


def test_runs_repeat(run: Run) -> None:
    def prompts(*arguments: str) -> dict[str, float]:
        _, everything = run("--concurrency", "2", "--max-tokens", "1", *arguments)
        spread: dict[str, float] = everything["levels"][0]["prompt_tokens"]
        return spread

    assert prompts() == prompts()
    assert prompts() != prompts("--seed", "1")


def test_an_open_loop(run: Run) -> None:
    _, everything = run("--rate", "300,100", "--duration", "0.1", "--max-tokens", "3", "--warmup", "0")
    fast, slow = everything["levels"]
    assert everything["settings"]["duration_s"] == 0.1
    assert fast["num_completed"] == fast["num_requests"] > slow["num_requests"] == slow["num_completed"] > 0
    assert fast["send_delay_s"]["max"] >= 0
    _, everything = run("--rate", "300", "--requests", "7", "--max-tokens", "3")
    assert everything["levels"][0]["num_completed"] == 7


def test_conversations_grow_by_their_answers(run: Run) -> None:
    arguments = ("--turns", "3", "--concurrency", "2", "--prompt-tokens", "30", "--max-tokens", "10")
    result, everything = run(*arguments)
    (level,) = everything["levels"]
    assert level["num_completed"] == 6
    turns = level["turns"]
    assert [(turn["turn"], turn["num_completed"]) for turn in turns] == [(1, 2), (2, 2), (3, 2)]
    assert turns[1]["prompt_tokens"] > turns[0]["prompt_tokens"] + 10
    assert turns[2]["prompt_tokens"] > turns[1]["prompt_tokens"] + 10
    lines = result.stdout.splitlines()
    assert lines[lines.index("concurrency 2, by turn") + 1].split()[:2] == ["turn", "answers"]


def test_a_conversation_that_outgrows_the_context_ends_and_counts(run: Run) -> None:
    arguments = ("--turns", "5", "--concurrency", "2", "--prompt-tokens", str(CONTEXT_LENGTH * 2 // 5))
    result, everything = run(*arguments, "--max-tokens", "4")
    (level,) = everything["levels"]
    assert (level["num_completed"], level["num_requests"], level["errors"]) == (4, 6, {"INVALID_ARGUMENT": 2})
    assert "note: INVALID_ARGUMENT: prompt: takes " in result.stdout


def test_what_the_server_refuses_is_counted_and_not_tried_again(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(checkpoint, max_sequences=1, max_waiting=0) as server:
        result, everything = run_bench(server.address, "--rate", "5000", "--requests", "6", "--warmup", "0")
    assert result.exit_code == 0
    (level,) = everything["levels"]
    refused = level["errors"]["UNAVAILABLE"]
    assert (level["num_completed"] + refused, level["num_requests"]) == (6, 6)
    assert caplog.text.count("method=ChatStream code=UNAVAILABLE") == refused
    assert "errors: UNAVAILABLE" in result.stdout
    assert "note: UNAVAILABLE: all places are taken, 1 to run" in result.stdout


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result, _ = run_bench(address)
    assert (result.exit_code, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {address}: ")
    assert line.endswith("is a server running there, and ready? --address or INDEX_GRPC_ADDRESS names another")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ((), "give the key with --api-key or INDEX_GRPC_API_KEY"),
        (("--api-key", "wrong"), "check the key in --api-key or INDEX_GRPC_API_KEY"),
    ],
)
def test_a_server_that_asks_for_another_key(
    checkpoint: Path, tmp_path: Path, given: tuple[str, ...], advice: str
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f"[keys.loader]\nhash = '{fingerprint('secret')}'\n")
    with serving(checkpoint, api_keys_file=keys) as server:
        result, _ = run_bench(server.address, *given)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, line.rpartition("; ")[2]) == (1, advice)
    assert "is a server running there" not in line


def test_a_picture(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bench.png"
    result, _ = run("--concurrency", "1,2,8", "--requests", "4", "--max-tokens", "4", "--plot", str(path))
    assert result.exit_code == 0
    assert f"drawn in {path}" in result.stdout
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert min(width, height) > 1000
    assert len(picture) > 40_000


def test_a_picture_of_conversations(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bench.svg"
    run("--turns", "2", "--concurrency", "1", "--max-tokens", "4", "--plot", str(path))
    assert path.read_text().startswith("<?xml")


def test_figures_are_printed_even_if_the_plot_cannot_be_written(run: Run) -> None:
    result, everything = run("--concurrency", "1", "--requests", "1", "--max-tokens", "2", "--plot", "/proc/bench.png")
    assert result.exit_code == 1
    assert everything["levels"][0]["num_completed"] == 1
    assert "Error: --plot /proc/bench.png: " in result.stderr


def test_certificates_and_api_keys_are_sent(checkpoint: Path, tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca.pem")
    pair, mine = issued(ca, tmp_path, "server", "127.0.0.1"), issued(ca, tmp_path, "mine", "caller")
    keys = tmp_path / "keys.toml"
    keys.write_text(f"[keys.loader]\nhash = '{fingerprint('secret')}'\nrequests_per_minute = 4\n")
    files = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": tmp_path / "ca.pem", "api_keys_file": keys}
    level = ["--concurrency", "1", "--requests", "2", "--warmup", "0", "--max-tokens", "3"]
    reach = ["--ca", str(tmp_path / "ca.pem"), "--cert", str(mine.cert), "--key", str(mine.key)]
    with serving(checkpoint, **files) as server:
        result, everything = run_bench(server.address, *level, *reach, "--api-key", "secret")
        assert result.exit_code == 0
        (level_found,) = everything["levels"]
        # Three requests are made before: one for the model, and two to count prompt tokens.
        assert (level_found["num_completed"], level_found["errors"]) == (1, {"RESOURCE_EXHAUSTED": 1})
        result, _ = run_bench(server.address, *level, *reach)
        assert result.exit_code == 1
        assert "this server asks for an API key" in result.stderr
        result, _ = run_bench(server.address, *level)
        assert result.exit_code == 3


def test_a_certificate_for_another_name(checkpoint: Path, tmp_path: Path) -> None:
    pair = issued(authority(tmp_path / "ca.pem"), tmp_path, "server", "index-grpc")
    arguments = ["--concurrency", "1", "--requests", "1", "--max-tokens", "2", "--ca", str(tmp_path / "ca.pem")]
    with serving(checkpoint, tls_cert=pair.cert, tls_key=pair.key) as server:
        result, _ = run_bench(server.address, *arguments)
        assert result.exit_code == 3
        result, everything = run_bench(server.address, *arguments, "--server-name", "index-grpc")
    assert result.exit_code == 0
    assert everything["levels"][0]["num_completed"] == 1
