"""The file of API keys, and the command that adds one."""

import hmac
import logging
import os
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from index_grpc.access.gate import Gate
from index_grpc.access.keys import Keys, fingerprint, key_file, new_key, read_keys
from index_grpc.cli import main
from index_grpc.errors import KeyExpired, KeyMissing, KeyWrong, StartupError
from tests.process import INDEX_GRPC

HASH = fingerprint("one")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def new(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", "new", *arguments])


def test_a_new_key_is_printed_once_and_only_its_hash_is_in_the_file(path: Path) -> None:
    made = [new(name, "--file", str(path)) for name in ("alice", "bob")]
    assert all((result.exit_code, result.stderr) == (0, "") for result in made)
    presented = [result.stdout.strip() for result in made]
    keys = read_keys(path)
    found = [keys.find(key) for key in presented]
    assert [match[0] for match in found if match] == ["alice", "bob"]
    assert not any(key in path.read_text() for key in presented)
    assert path.stat().st_mode & 0o777 == 0o600


def test_adding_a_key_keeps_the_files_mode_and_contents(path: Path) -> None:
    path.write_text(f"# ours\n[keys.one]\nhash = '{HASH}'")  # the last line has no newline
    path.chmod(0o640)
    options = ["--requests-per-minute", "90", "--max-concurrent", "2", "--expires", "2040-05-06"]
    assert new("two", "--file", str(path), *options).exit_code == 0
    assert path.read_text().startswith("# ours\n")
    assert path.stat().st_mode & 0o777 == 0o640
    two = read_keys(path).keys["two"]
    assert (two.requests_per_minute, two.max_concurrent) == (90, 2)
    assert two.expires == datetime(2040, 5, 6, tzinfo=UTC)


def test_without_a_file_what_to_add_goes_to_stderr(path: Path) -> None:
    result = new("alice")
    path.write_text(result.stderr)
    assert read_keys(path).find(result.stdout.strip()) is not None


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (["one"], 1, "already has a key one; choose another name or delete its lines"),
        (["a b"], 2, "NAME is 'a b'; allowed are letters, digits, _ and -, 1 to 64 of them"),
        ([""], 2, "NAME is ''; allowed are letters, digits, _ and -, 1 to 64 of them"),
        (["two", "--expires", "tomorrow"], 2, "'--expires': 'tomorrow' is no day; write it as YYYY-MM-DD"),
    ],
)
def test_what_cannot_be_added_changes_nothing(path: Path, arguments: list[str], exit_code: int, error: str) -> None:
    path.write_text(f"[keys.one]\nhash = '{HASH}'\n")
    before = path.read_text()
    result = new(*arguments, "--file", str(path))
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert error in result.stderr
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("output", "exit_code", "error"),
    [
        (">/dev/full", 1, "error: the output cannot be written: No space left on device"),
        (">&-", 2, "error: standard output is closed; leave it open, since the key is written to it"),
    ],
)
def test_a_key_that_nobody_has_seen_is_not_stored(path: Path, output: str, exit_code: int, error: str) -> None:
    adding = f'"$0" keys new two --file "$1" {output}'
    result = in_shell(adding, path)
    assert (result.returncode, result.stderr.strip()) == (exit_code, error)
    assert not path.exists()
    new("one", "--file", str(path))
    before = path.read_text()
    assert in_shell(adding, path).returncode == exit_code
    assert path.read_text() == before
    assert new("two", "--file", str(path)).exit_code == 0


@pytest.mark.parametrize("num_bytes", [500, 512])
def test_a_printed_key_that_cannot_be_stored_is_said_to_be_invalid(path: Path, num_bytes: int) -> None:
    """The file may have 512 bytes, so at most a part of the entry fits."""
    before = f"[keys.one]\nhash = '{HASH}'\n".ljust(num_bytes - 1, "#") + "\n"
    path.write_text(before)
    result = in_shell('ulimit -f 1; "$0" keys new two --file "$1"', path)
    assert result.returncode == 1
    (key,) = result.stdout.split()
    remedy = "see --file, and make another key: the printed one is not valid"
    assert result.stderr == f"error: {path} cannot be written (File too large); {remedy}\n"
    assert path.read_text() == before
    assert read_keys(path).find(key) is None


def test_a_new_file_that_cannot_be_written_is_not_left_behind(path: Path) -> None:
    result = in_shell('ulimit -f 0; "$0" keys new two --file "$1" | cat', path)
    assert "cannot be written (File too large)" in result.stderr
    assert not path.exists()


def in_shell(command: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command, in which $0 is index-grpc and $1 the path."""
    arguments = ["sh", "-c", command, INDEX_GRPC, str(path)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("heading", ['[keys."one"]', "  [keys.one]", "\ufeff[keys.one]", "[ keys . one ] # ours"])
def test_a_name_is_taken_however_it_is_written(path: Path, heading: str) -> None:
    path.write_text(f"{heading}\nhash = '{HASH}'\n")
    assert "already has a key one; choose another name" in new("one", "--file", str(path)).stderr
    assert new("two", "--file", str(path)).exit_code == 0
    assert set(read_keys(path).keys) == {"one", "two"}


@pytest.mark.parametrize(
    ("flag", "value", "error"),
    [
        ("--requests-per-minute", "nan", "nan is not a number"),
        ("--requests-per-minute", "2000000", "2000000.0 is not in the range 0.001<=x<=1000000"),
        ("--requests-per-minute", "0.00001", "1e-05 is not in the range 0.001<=x<=1000000"),
        ("--max-concurrent", "99999999999", "99999999999 is not in the range 1<=x<=100000"),
        ("--max-concurrent", "0", "0 is not in the range 1<=x<=100000"),
    ],
)
def test_a_limit_that_no_server_would_take(path: Path, flag: str, value: str, error: str) -> None:
    result = new("two", "--file", str(path), flag, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"'{flag}': {error}" in result.stderr
    assert not path.exists()


@pytest.mark.parametrize(("requests", "calls"), [("0.001", "1"), ("1000000", "100000")])
def test_the_first_and_last_limits_a_server_takes(path: Path, requests: str, calls: str) -> None:
    result = new("two", "--file", str(path), "--requests-per-minute", requests, "--max-concurrent", calls)
    assert (result.exit_code, result.stderr) == (0, "")
    two = read_keys(path).keys["two"]
    assert (two.requests_per_minute, two.max_concurrent) == (float(requests), int(calls))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "it holds no keys; `index-grpc keys new NAME --file FILE` adds one"),
        ("[keys]\n", "keys: Dictionary should have at least 1 item"),
        ("[keys.one]\nhash = x\n", "is not valid TOML: Invalid value (at line 2, column 8)"),
        ("[keys.one]\n", "keys.one.hash: Field required"),
        ("[keys.one]\nhash = 'igrpc_thekeyitself'\n", "keys.one.hash: should be sha256: and 64 lower-case hexa"),
        (f"[keys.one]\nhash = '{HASH}'\nlimit = 3\n", "keys.one.limit: Extra inputs are not permitted"),
        (f"[keys.one]\nhash = '{HASH}'\nmax_concurrent = 0\n", "keys.one.max_concurrent: Input should be greater"),
        (f"[keys.one]\nhash = '{HASH}'\n[keys.two]\nhash = '{HASH}'\n", "one and two are the same key"),
        (f"[keys.'one two']\nhash = '{HASH}'\n", "keys.one two: allowed are letters, digits, _ and -, 1 to 64"),
        ("# \udcff", "is not valid TOML: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(path: Path, text: str, error: str) -> None:
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StartupError) as caught:
        read_keys(path)
    assert error in str(caught.value)
    assert str(caught.value).startswith(f"--api-keys-file {path}")
    assert "thekeyitself" not in str(caught.value)


def test_a_file_that_everyone_can_write_to_is_warned_about(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f"[keys.one]\nhash = '{HASH}'\n")
    read_keys(path)
    assert caplog.messages == []
    path.chmod(0o602)
    read_keys(path)
    assert "is writable by every user" in caplog.text


def gate(path: Path, *entries: str) -> Gate:
    path.write_text("\n".join(f"[keys.{entry}" for entry in entries))
    return Gate(key_file(path))


@pytest.mark.parametrize("header", ["Bearer one", "bearer one", "BEARER  one "])
def test_a_caller_with_a_valid_key_is_identified(path: Path, header: str) -> None:
    assert gate(path, f"one]\nhash = '{HASH}'").caller(header).name == "one"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic one", "one", "Bearerone"])
def test_a_caller_without_a_key_is_told_how_to_send_one(path: Path, header: str) -> None:
    with pytest.raises(KeyMissing, match="authorization: Bearer KEY"):
        gate(path, f"one]\nhash = '{HASH}'").caller(header)


def test_a_wrong_key_is_not_repeated(path: Path) -> None:
    with pytest.raises(KeyWrong) as caught:
        gate(path, f"one]\nhash = '{HASH}'").caller("Bearer another")
    assert "another" not in str(caught.value)


def test_without_a_file_of_keys_every_caller_is_accepted() -> None:
    assert Gate().caller("").name == ""


def test_a_key_expires_at_the_beginning_of_its_date(path: Path) -> None:
    today = datetime.now(UTC).date()
    days = {"one": today, "two": today + timedelta(days=1), "three": datetime.now(UTC) + timedelta(seconds=60)}
    asked = gate(path, *(f"{name}]\nhash = '{fingerprint(name)}'\nexpires = {day}" for name, day in days.items()))
    with pytest.raises(KeyExpired, match="API key one has expired"):
        asked.caller("Bearer one")
    assert [asked.caller(f"Bearer {name}").name for name in ("two", "three")] == ["two", "three"]


def test_a_key_is_compared_with_all_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("index_grpc.access.keys.hmac.compare_digest", compare)
    hashes = [fingerprint(name) for name in ("one", "two", "three")]
    keys = Keys.model_validate({"keys": {f"k{number}": {"hash": found} for number, found in enumerate(hashes)}})
    for presented in ("one", "three", "none of them"):
        compared.clear()
        keys.find(presented)
        assert compared == [(found, fingerprint(presented)) for found in hashes]


def test_keys_are_long_and_never_the_same() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(len(key) >= 43 and key.isascii() for key in made)


def test_replaced_keys_apply_at_once_and_invalid_ones_do_not(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path.write_text(f"[keys.one]\nhash = '{HASH}'\n")
    keys = key_file(path)
    asked = Gate(keys)
    path.write_text(f"[keys.two]\nhash = '{fingerprint('two')}'\n")
    keys.refresh()
    assert asked.caller("Bearer two").name == "two"
    with pytest.raises(KeyWrong):
        asked.caller("Bearer one")
    path.write_text("[keys.three]\n")
    keys.refresh()
    assert asked.caller("Bearer two").name == "two"
    told = f"--api-keys-file {path}: keys.three.hash: Field required; what was read before stays in force"
    assert caplog.messages == [f"replaced the API keys of {path}", told]


@pytest.mark.parametrize("zone", ["EAST-24", "WEST24"])
def test_a_key_expires_in_utc_in_every_time_zone(zone: str) -> None:
    """In these zones it is already tomorrow, and still yesterday."""

    def made(day: date) -> subprocess.CompletedProcess[str]:
        command = [INDEX_GRPC, "keys", "new", "alice", "--expires", str(day)]
        env = os.environ | {"TZ": zone}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)

    today = datetime.now(UTC).date()
    assert made(today + timedelta(days=2)).returncode == 0
    if datetime.now(UTC).date() == today:
        assert made(today + timedelta(days=1)).returncode == 0
    refused = made(today)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"--expires is {today}; allowed is a day after today, which is {today:%Y}" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["x.y"], "NAME is 'x.y'; allowed are letters"),
        (["alice", "--expires", "2020-01-01"], "--expires is 2020-01-01; allowed is a day after today"),
    ],
)
def test_keys_that_no_server_would_take(arguments: list[str], problem: str) -> None:
    result = new(*arguments)
    assert result.exit_code != 0
    assert problem in result.stderr
    assert not result.stdout
