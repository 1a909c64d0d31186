"""The examples run with the commands in their first comment."""

import re
import shutil
from pathlib import Path

import pytest

from tests.contract.conftest import Built
from tests.contract.languages import PATH, ROOT, shell

EXAMPLES = ROOT / "examples"
STAND_IN = Path(__file__).parent / "stand_in"
WANTED = {
    "cpp/chat.cpp": "有一盏灯",
    "node/chat.mjs": "blue",
    "python/chat.py": "blue",
    "python/chat_async.py": "Shanghai",
    "ruby/chat.rb": "blue",
    "shell/chat.sh": '"finish"',
}
"""Text that each must print."""
OTHER_LANGUAGES = {"cpp", "node", "ruby"}
MOST_LINES = 40


def commands(example: str) -> list[str]:
    """The shell lines in its first comment."""
    return re.findall(r"^(?://|#) {5}(\S.*)$", (EXAMPLES / example).read_text(), flags=re.MULTILINE)


def cases() -> list[object]:
    marks = [pytest.mark.languages, pytest.mark.timeout(600)]
    return [pytest.param(name, marks=marks if Path(name).parts[0] in OTHER_LANGUAGES else ()) for name in WANTED]


@pytest.mark.parametrize("example", cases())
def test_an_example_runs_as_it_says(example: str, address: str, built: Built) -> None:
    lines = commands(example)
    folder = Path(example).parts[0]
    if folder in OTHER_LANGUAGES:
        workplace = built(folder).workplace
        if folder == "node":  # its packages are installed there already, by the lock file
            shutil.copy(EXAMPLES / example, workplace)
            lines = [line.replace("examples/node", str(workplace)) for line in lines if not line.startswith("npm ")]
    assert lines
    for line in lines:
        done = shell(line, ROOT, INDEX_GRPC_ADDRESS=address, PATH=f"{PATH}:{STAND_IN}")
        assert done.returncode == 0, done.stderr[-2000:]
    assert WANTED[example] in done.stdout


def test_every_example_is_run_and_short() -> None:
    examples = {str(path.relative_to(EXAMPLES)): path for path in EXAMPLES.glob("*/*.*")}
    assert set(examples) == set(WANTED)
    for path in examples.values():
        assert len(path.read_text().splitlines()) <= MOST_LINES, path


@pytest.mark.languages
def test_an_example_says_what_went_wrong(built: Built) -> None:
    """No server listens at the address."""
    workplace = built("node").workplace
    shutil.copy(EXAMPLES / "node/chat.mjs", workplace)
    done = shell(f"node {workplace}/chat.mjs", ROOT, INDEX_GRPC_ADDRESS="127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("UNAVAILABLE: ")
