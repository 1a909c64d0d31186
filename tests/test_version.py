"""The server and its client are released together."""

import tomllib
from pathlib import Path

import index_grpc_client

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]


def test_the_server_asks_for_the_client_beside_it() -> None:
    assert f"index-grpc-client=={index_grpc_client.__version__}" in PROJECT["dependencies"]
