"""The versions of other packages that the server asks for."""

import re
import tomllib
from pathlib import Path

import index_grpc_client
import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_server_asks_for_the_client_beside_it() -> None:
    assert f"index-grpc-client=={index_grpc_client.__version__}" in PROJECT["dependencies"]


@pytest.mark.parametrize("extra", ["http", "test"])
def test_only_the_minor_version_of_uvicorn_that_is_tested_is_allowed(extra: str) -> None:
    """The HTTP port overrides methods of uvicorn that are not its public interface."""
    (tested,) = re.findall(r"^uvicorn==(\d+)\.(\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    major, minor = map(int, tested)
    allowed = next(line for line in PROJECT["optional-dependencies"][extra] if line.startswith("uvicorn"))
    assert allowed == f"uvicorn>={major}.{minor},<{major}.{minor + 1}"
