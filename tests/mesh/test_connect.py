"""Connect's gRPC-Web transport, as browsers use it, through Envoy."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from index_grpc_client import AsyncClient

from tests.contract.languages import BY_FOLDER, Language, shell
from tests.mesh.envoy import running_envoy
from tests.mesh.replicas import Replica

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def node() -> Language:
    """The Node program of the contract's tests, built; skips if Node is not installed."""
    language = BY_FOLDER["node"]
    if missing := language.missing():
        pytest.skip(f"apt-get install {' '.join(missing)}")
    language.build()
    return language


async def test_grpc_web_from_connect_node(node: Language, replicas: list[Replica], tmp_path: Path) -> None:
    async with running_envoy(tmp_path, [replica.address for replica in replicas]) as envoy:
        command = f"node connect.mjs grpc-web http://{envoy.address}"
        done: subprocess.CompletedProcess[str] = await asyncio.to_thread(shell, command, node.workplace)
    assert (done.returncode, done.stderr) == (0, "")
    told = {one["call"]: one for one in map(json.loads, done.stdout.splitlines())}
    async with AsyncClient(replicas[0].address) as client:
        expected = (await client.chat("讲个故事", seed=7, max_tokens=60)).text
    assert told["chat"]["messages"][0]["response"] == expected
    assert "".join(message.get("delta", "") for message in told["stream"]["messages"]) == expected
    assert told["stream"]["messages"][-1]["finish"]["reason"] == "FINISH_REASON_STOP"
    assert told["invalid"]["details"]["google.rpc.ErrorInfo"]["reason"] == "INVALID_REQUEST"
