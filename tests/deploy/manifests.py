"""The manifests for Kubernetes, as kubectl renders them."""

import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml

from index_grpc.cli import main

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
README = (ROOT / "deploy" / "README.md").read_text()
BIN = Path(sys.executable).parent

OWN = "site"
"""The user's own kustomization that the README shows, with all components."""
KUSTOMIZATIONS = ("base", "overlays/cpu", "overlays/gpu", "overlays/mesh", OWN)

Manifest = dict[str, Any]


@cache
def rendered(kustomization: str) -> list[Manifest]:
    """All manifests that would be applied."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(KUBERNETES, Path(folder) / "kubernetes"))
        (copy / OWN).mkdir()
        (copy / OWN / "kustomization.yaml").write_text(own_kustomization())
        command = [str(BIN / "kubectl"), "kustomize", str(copy / kustomization)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def own_kustomization() -> str:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return str(block)


def of_kind(kustomization: str, kind: str) -> list[Manifest]:
    return [manifest for manifest in rendered(kustomization) if manifest["kind"] == kind]


def pod(kustomization: str) -> Manifest:
    """The pod template of the Deployment."""
    (deployment,) = of_kind(kustomization, "Deployment")
    template: Manifest = deployment["spec"]["template"]
    return template


def server(kustomization: str) -> Manifest:
    """The container of the server."""
    (container,) = pod(kustomization)["spec"]["containers"]
    found: Manifest = container
    return found


def settings_file(kustomization: str) -> str:
    """The settings file in the ConfigMap."""
    (found,) = of_kind(kustomization, "ConfigMap")
    return str(found["data"]["serve.toml"])


def parsed(arguments: list[str]) -> click.Context:
    """Parses a command line, without the program's name, with the program itself. Raises UsageError if it is wrong."""
    name, *rest = arguments
    command = main.get_command(click.Context(main), name)
    assert command is not None, name
    return command.make_context(name, rest)
