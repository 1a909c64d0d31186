"""Hostile and broken clients: a short attack of every kind; `benchmarks/abuse.py` makes longer ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ABUSE = Path(__file__).resolve().parents[2] / "benchmarks" / "abuse.py"


@pytest.fixture(scope="module")
def section() -> dict[str, Any]:
    """The results."""
    done = subprocess.run(
        [sys.executable, str(ABUSE), "--quick"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, found["notes"]) == (0, []), done.stderr
    return found


@pytest.fixture(scope="module")
def attacks(section: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The results of each attack by name."""
    return {attack["name"]: attack for attack in section["data"]["attacks"]}


def test_other_callers_are_answered_during_every_attack(attacks: dict[str, dict[str, Any]]) -> None:
    assert len(attacks) == 15
    assert all(attack["num_answers"] > 0 and not attack["broken"] for attack in attacks.values())


def test_connections_that_flood_or_speak_another_protocol_are_closed(attacks: dict[str, dict[str, Any]]) -> None:
    assert attacks["ping_flood"]["ended_seconds"] is not None
    assert attacks["browsers"]["ended_seconds"] is not None


@pytest.mark.parametrize("name", ["false_lengths", "bombs"])
def test_what_is_too_large_is_refused(attacks: dict[str, dict[str, Any]], name: str) -> None:
    assert attacks[name]["statuses"] == {"8": attacks[name]["size"]}  # RESOURCE_EXHAUSTED
