"""Commands in manifests, image and instructions: the program understands them, and they do what they should."""

import asyncio
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from index_grpc.cli import main
from index_grpc.commands.health import health
from tests.certificates import authority, issued
from tests.deploy.manifests import OWN, README, parsed, pod, server
from tests.server.fake_runner import fake_server

TLS = "/etc/index-grpc-tls"
PROBES = {"startupProbe": "liveness", "livenessProbe": "liveness", "readinessProbe": ""}

RECORDS = """#!/bin/sh
echo "$@" >> $LOG
exit $CODE
"""


@pytest.fixture
def probes(tmp_path: Path) -> dict[str, list[str]]:
    """The arguments of each probe of a server that encrypts; creates the files that they name."""
    ca = authority(tmp_path / "ca.crt")
    pair = issued(ca, tmp_path, "tls", "index-grpc")
    pair.cert.rename(tmp_path / "tls.crt")
    commands = {name: server(OWN)[name]["exec"]["command"] for name in PROBES}
    assert {command[0] for command in commands.values()} == {"index-grpc"}
    return {name: [word.replace(TLS, str(tmp_path)) for word in command[1:]] for name, command in commands.items()}


def test_probes_ask_the_right_service_and_end_in_time(probes: dict[str, list[str]]) -> None:
    for name, service in PROBES.items():
        context = parsed(probes[name])
        assert context.params["service"] == service
        assert context.params["timeout"] + 1 < server(OWN)[name]["timeoutSeconds"]


async def test_probes_reach_a_server_that_encrypts(probes: dict[str, list[str]], tmp_path: Path) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    async with fake_server(loaded=False, tls_cert=cert, tls_key=key) as encrypting:

        async def codes() -> list[int]:
            environment = {"INDEX_GRPC_ADDRESS": encrypting.address}
            runs = [asyncio.to_thread(CliRunner().invoke, main, probes[name], env=environment) for name in PROBES]
            return [(await run).exit_code for run in runs]

        assert await codes() == [0, 0, 1]
        await encrypting.load()
        assert await codes() == [0, 0, 0]


def downloads(tmp_path: Path, code: int) -> tuple[int, list[str]]:
    """Runs the init container's script with a program that logs its arguments; returns the exit code and the log."""
    (container,) = pod("overlays/cpu")["spec"]["initContainers"]
    program, log = tmp_path / "index-grpc", tmp_path / "log"
    program.write_text(RECORDS)
    program.chmod(0o755)
    log.touch()
    (tmp_path / "models" / "Index-1.9B-Chat").mkdir(parents=True, exist_ok=True)
    command = [*container["command"], container["args"][0].replace("/models", f"{tmp_path}/models")]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "CODE": str(code)}
    return subprocess.run(command, env=environment, check=False).returncode, log.read_text().splitlines()


def test_the_model_is_downloaded_until_it_is_complete_and_never_again(tmp_path: Path) -> None:
    assert downloads(tmp_path, code=1)[0] == 1
    assert downloads(tmp_path, code=0)[0] == 0
    assert downloads(tmp_path, code=1)[0] == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2
    (output,) = {str(parsed(shlex.split(line)).params["output"]) for line in lines}
    variables = {variable["name"]: variable["value"] for variable in server("overlays/cpu")["env"]}
    assert variables["INDEX_GRPC_MODEL"] == output.removeprefix(str(tmp_path))


def shell_lines() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return [line.partition(" # ")[0].strip() for block in blocks for line in block.splitlines()]


def test_instructions_name_flags_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ca.pem", "probe.pem", "probe.key"):
        (tmp_path / name).touch()
    lines = [shlex.split(line) for line in shell_lines()]
    ours = [words[1:] for words in lines if words[0] == "index-grpc"]
    contained = [words for words in lines if words[:2] == ["docker", "run"]]
    for words in contained:
        (image,) = [place for place, word in enumerate(words) if re.fullmatch("index-grpc:(cpu|cuda)", word)]
        ours.append(words[image + 1 :] or ["serve"])
    assert [parsed(words).info_name for words in ours] == ["health"] * 3 + ["serve"] * 3
    assert {words[0] for words in lines} == {"index-grpc", "docker", "kubectl"}


def test_the_readme_lists_the_programs_exit_codes() -> None:
    told = re.findall(r"^  (\d)  ", str(health.epilog), re.MULTILINE)
    assert re.findall(r"^\| (\d) \|", README, re.MULTILINE) == told
