"""A generic client, `buf curl`, gets all that it needs by reflection."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.server.asking import Stub, seeded

BUF = str(Path(sys.executable).parent / "buf")
REQUEST = {"prompt": "你好", "maxTokens": 20, "sampling": {"seed": 3}}


async def buf_curl(address: str, path: str, *arguments: str) -> tuple[int, str, str]:
    """Runs the client; returns exit code, stdout and stderr. The server's event loop, which is this one, must go on."""
    flags = ["--protocol", "grpc", "--http2-prior-knowledge"]
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", *flags, *arguments, f"http://{address}{path}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


async def call(address: str, method: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Makes a call and returns its responses as JSON."""
    code, stdout, stderr = await buf_curl(address, f"/{method}", "--data", json.dumps(request))
    assert (code, stderr) == (0, "")
    responses, decoder, text = [], json.JSONDecoder(), stdout.strip()
    while text:
        response, end = decoder.raw_decode(text)
        responses.append(response)
        text = text[end:].strip()
    return responses


async def test_chat(address: str, stub: Stub) -> None:
    (answer,) = await call(address, "index.v1.ChatService/Chat", REQUEST)
    ours = await stub.Chat(seeded("你好", seed=3, max_tokens=20))
    assert answer["response"] == ours.response
    assert answer["history"][0] == {"role": "ROLE_USER", "content": "你好"}
    assert answer["finish"]["usage"]["completionTokens"] == ours.finish.usage.completion_tokens


async def test_chat_stream(address: str, stub: Stub) -> None:
    responses = await call(address, "index.v1.ChatService/ChatStream", REQUEST)
    ours = await stub.Chat(seeded("你好", seed=3, max_tokens=20))
    assert "".join(response.get("delta", "") for response in responses) == ours.response
    assert responses[0]["start"]["seed"] == 3
    assert responses[-1]["finish"]["reason"].startswith("FINISH_REASON_")


async def test_health(address: str) -> None:
    request = {"service": "index.v1.ChatService"}
    assert await call(address, "grpc.health.v1.Health/Check", request) == [{"status": "SERVING"}]


async def test_services_are_listed(address: str) -> None:
    code, stdout, _ = await buf_curl(address, "", "--list-services")
    assert code == 0
    assert {"index.v1.ChatService", "grpc.health.v1.Health"} <= set(stdout.split())


async def test_every_listed_service_is_described(address: str) -> None:
    code, stdout, stderr = await buf_curl(address, "", "--list-methods")
    assert (code, stderr) == (0, "")
    assert {"index.v1.ChatService/ChatStream", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} <= set(
        stdout.split()
    )


async def test_an_error_is_shown_with_its_details(address: str) -> None:
    code, stdout, stderr = await buf_curl(address, "/index.v1.ChatService/Chat", "--data", '{"maxTokens": 0}')
    assert code == 24  # 8 × INVALID_ARGUMENT
    assert stdout == ""
    error = json.loads(stderr)
    assert error["code"] == "invalid_argument"
    kinds = [detail["type"] for detail in error["details"]]
    assert kinds == ["google.rpc.ErrorInfo", "google.rpc.RequestInfo", "google.rpc.BadRequest"]
