"""The contract may grow, but nothing on which a released client relies may change."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = str(Path(sys.executable).parent / "buf")
RELEASED = ROOT / "protos" / "released.binpb"
REFUSED = 100
"""buf's exit code for changes that break a rule."""


def breaking(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [BUF, "breaking", "--against", str(RELEASED)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def changed(folder: Path, old: str, new: str) -> Path:
    """A copy of the contract with this change."""
    shutil.copytree(ROOT / "protos", folder / "protos")
    shutil.copy(ROOT / "buf.yaml", folder)
    contract = folder / "protos" / "index" / "v1" / "chat.proto"
    text = contract.read_text()
    assert old in text
    contract.write_text(text.replace(old, new, 1))
    return folder


def test_the_contract_keeps_what_was_released() -> None:
    assert breaking(ROOT).returncode == 0, breaking(ROOT).stdout


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("string prompt = 1;", "string prompt = 99;", 'field "1" with name "prompt" on message "ChatRequest"'),
        ("string response = 2;", "bytes response = 2;", 'Field "2" with name "response"'),
        ("ROLE_SYSTEM = 1;", "ROLE_SYSTEM = 9;", 'enum value "1" on enum "Role"'),
        ("rpc CountTokens(", "rpc NumTokens(", 'RPC "CountTokens" on service "ChatService"'),
    ],
)
def test_what_breaks_clients_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    done = breaking(changed(tmp_path, old, new))
    assert done.returncode == REFUSED
    assert complaint in done.stdout


def test_additions_are_welcome(tmp_path: Path) -> None:
    done = breaking(changed(tmp_path, "string prompt = 1;", "string prompt = 1;\n  // More.\n  string more = 99;"))
    assert done.returncode == 0, done.stdout
