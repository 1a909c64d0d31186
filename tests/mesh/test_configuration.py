"""The deployed configurations parse, and contain the current contract."""

import subprocess
from pathlib import Path

import pytest

from tests.mesh import envoy, haproxy

REPLICAS = ["127.0.0.1:50051", "127.0.0.1:50052"]
VARIANTS = {"round robin": envoy.LOAD_BALANCING, "by load": envoy.BY_LOAD}


@pytest.mark.skipif(not Path(envoy.COMMAND[0]).exists(), reason="no Envoy: make test-mesh installs it")
@pytest.mark.parametrize("name", VARIANTS)
def test_envoy_takes_its_configuration(tmp_path: Path, name: str) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(envoy.configuration(REPLICAS, {envoy.LOAD_BALANCING: VARIANTS[name]}))
    command = [*envoy.COMMAND, "--mode", "validate", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.endswith("OK\n"), done.stderr
    assert "warning" not in done.stderr, done.stderr


@pytest.mark.skipif(haproxy.program() is None, reason="no HAProxy: apt-get install haproxy")
def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(haproxy.configuration(tmp_path, REPLICAS, "127.0.0.1:8080"))
    command = [str(haproxy.program()), "-c", "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
