"""The image: its Dockerfile is valid and agrees with the server."""

import json
import re
import subprocess

import pytest

from index_grpc import __version__
from index_grpc.server.app import FLUSH_SECONDS
from index_grpc.server.supervisor import LONGEST_STEP_SECONDS
from index_grpc.settings import ServeSettings
from tests.deploy.manifests import BIN, README, ROOT, parsed, pod, server

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
LINES = DOCKERFILE.read_text().replace("\\\n", "").splitlines()


def last(instruction: str) -> str:
    """The arguments of the last instruction of this kind, in the final stage."""
    return [line for line in LINES if line.startswith(f"{instruction} ")][-1].removeprefix(f"{instruction} ")


def test_hadolint_finds_nothing_wrong() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_its_commands_are_the_programs() -> None:
    program: list[str] = json.loads(last("ENTRYPOINT"))
    assert program == ["index-grpc"]
    served = parsed(json.loads(last("CMD")))
    assert (served.info_name, served.params["host"]) == ("serve", "0.0.0.0")
    probe: list[str] = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert probe[:1] == program
    assert parsed(probe[1:]).params["address"].endswith(f":{served.params['port']}")


def test_a_probe_ends_before_docker_ends_it() -> None:
    longest = re.search(r"--timeout=(\d+)s", last("HEALTHCHECK"))
    assert longest is not None
    assert parsed(["health"]).params["timeout"] + 1 < int(longest[1])


def test_it_runs_as_the_user_and_on_the_ports_of_the_manifests() -> None:
    context = pod("base")["spec"]["securityContext"]
    assert last("USER") == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert last("EXPOSE").split() == [str(port["containerPort"]) for port in server("base")["ports"]]


def test_its_label_has_the_version() -> None:
    assert f'image.version="{__version__}"' in last("LABEL")


@pytest.mark.parametrize("line", re.findall("^docker run .*", README, re.MULTILINE))
def test_docker_waits_for_the_drain(line: str) -> None:
    settings = ServeSettings()
    longest = settings.drain_delay_seconds + settings.grace_seconds + LONGEST_STEP_SECONDS + FLUSH_SECONDS
    waits = re.search(r"--stop-timeout (\d+)", line)
    assert waits is not None
    assert int(waits[1]) >= longest
    assert last("STOPSIGNAL") == "SIGTERM"


def test_what_is_built_from_is_not_ignored() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in kept)
    assert {"constraints.txt", "pyproject.toml", "index_grpc", "clients/python", "README.md", "LICENSE"} <= set(kept)
