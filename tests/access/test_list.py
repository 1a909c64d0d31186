"""The command that lists the keys of a file, and checks it."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from index_grpc.access.keys import fingerprint, key_file
from index_grpc.cli import main
from index_grpc.errors import StartupError
from tests.process import INDEX_GRPC

HASH = fingerprint("one")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def listed(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["keys", "list", *map(str, arguments)])


def entry(name: str, *settings: str) -> str:
    return "\n".join([f"[keys.{name}]", f"hash = '{fingerprint(name)}'", *settings, ""])


def test_each_key_is_a_line_without_its_hash(path: Path) -> None:
    path.write_text(
        entry("zoe")
        + entry("alice", "requests_per_minute = 60", "max_concurrent = 4", "expires = 2020-01-01")
        + entry("a-longer-name", "requests_per_minute = 0.5", "expires = 9000-01-01T01:00:00+02:00")
    )
    result = listed("--file", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "name           requests_per_minute  max_concurrent  expires               state",
        "zoe            -                    -               -                     valid",
        "alice          60                   4               2020-01-01            expired",
        "a-longer-name  0.5                  -               8999-12-31T23:00:00Z  valid",
    ]
    assert "sha256" not in result.stdout


def test_a_long_name_moves_no_other_line(path: Path) -> None:
    path.write_text(entry("n" * 64, "expires = 2020-01-01") + entry("one", "expires = 2020-01-01"))
    heading, long, short = listed("--file", path).stdout.splitlines()
    assert max(len(heading), len(short)) < 80
    assert long.split() == ["n" * 64, *short.split()[1:]]


def test_a_new_key_is_listed(path: Path) -> None:
    CliRunner().invoke(main, ["keys", "new", "alice", "--file", str(path), "--requests-per-minute", "1000000"])
    assert listed("--file", path).stdout.splitlines()[1].split() == ["alice", "1000000", "-", "-", "valid"]


@pytest.mark.parametrize(("days", "state"), [(0, "expired"), (1, "valid")])
def test_a_key_is_listed_as_expired_from_the_beginning_of_its_day(path: Path, days: int, state: str) -> None:
    day = datetime.now(UTC).date() + timedelta(days=days)
    path.write_text(entry("one", f"expires = {day}"))
    assert listed("--file", path).stdout.split()[-2:] == [str(day), state]


def test_the_file_may_be_named_as_for_the_server(path: Path) -> None:
    path.write_text(entry("one"))
    assert listed("--api-keys-file", path).stdout == listed(INDEX_GRPC_API_KEYS_FILE=str(path)).stdout
    assert listed("--api-keys-file", path).exit_code == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, " cannot be read (No such file or directory); check its path and permissions"),
        ("", ": it holds no keys; `index-grpc keys new NAME --file FILE` adds one"),
        ("[keys.one]\n", ": keys.one.hash: Field required"),
        ("[keys.one\n", " is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 10)"),
        (f"[keys.'王']\nhash = '{HASH}'\n", ": keys.王: allowed are letters, digits, _ and -, 1 to 64 of them"),
    ],
)
def test_a_wrong_file_is_refused_in_the_servers_words(path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        path.write_text(text, encoding="utf-8")
    result = listed("--file", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: --api-keys-file {path}{problem}\n"
    with pytest.raises(StartupError) as served:
        key_file(path)
    assert result.stderr == f"error: {served.value}\n"


def test_without_a_file_it_says_which_option_names_one() -> None:
    result = listed()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Missing option '--file' / '--api-keys-file'" in result.stderr


def test_the_output_may_have_any_encoding(path: Path) -> None:
    path.write_text(entry("one"))
    command = [INDEX_GRPC, "keys", "list", "--file", str(path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.splitlines()[1].split()) == (0, ["one", "-", "-", "-", "valid"])
