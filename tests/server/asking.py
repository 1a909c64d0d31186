"""How the tests call a server: with the plain stub, and with all details of a refusal."""

import asyncio
import json
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

if TYPE_CHECKING:
    from index_grpc_client.v1.chat_pb2_grpc import ChatServiceAsyncStub

    Stub = ChatServiceAsyncStub
else:
    Stub = ChatServiceStub

MOST_TRAILER_BYTES = 8192
"""The most trailers that grpc-java and grpc-netty accept, counting names, values in base64, and 32 bytes for each."""
MOST_LOAD_TRAILER_BYTES = 150
"""The part of it for the load report, which gRPC's own client does not show; counted in the same way."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failed call's status with all its details."""

    code: grpc.StatusCode
    message: str
    trailers: dict[str, str | bytes]
    details: dict[type[Message], Message]

    @property
    def reason(self) -> str:
        """The reason in ErrorInfo."""
        info = self.detail(ErrorInfo)
        assert info.domain == "index-grpc"
        return str(info.reason)

    @property
    def metadata(self) -> dict[str, str]:
        """ErrorInfo's metadata."""
        return dict(self.detail(ErrorInfo).metadata)

    @property
    def request_id(self) -> str:
        """The request id in RequestInfo."""
        return str(self.detail(RequestInfo).request_id)

    @property
    def violations(self) -> dict[str, str]:
        """The descriptions in BadRequest by field."""
        return {found.field: found.description for found in self.detail(BadRequest).field_violations}

    @property
    def retry_seconds(self) -> float:
        """The delay in RetryInfo."""
        return float(self.detail(RetryInfo).retry_delay.ToNanoseconds() / 1e9)

    @property
    def size_on_the_wire(self) -> int:
        """The bytes of the trailers, as receivers count them."""
        quoted = sum(1 if 32 <= byte < 127 and byte != ord("%") else 3 for byte in self.message.encode())
        sizes = [len("grpc-message") + quoted + 32, len("grpc-status") + 2 + 32, MOST_LOAD_TRAILER_BYTES]
        for name, value in self.trailers.items():
            sizes.append(len(name) + (-(-len(value) // 3) * 4 if isinstance(value, bytes) else len(value)) + 32)
        return sum(sizes)

    def detail(self, kind: Any) -> Any:
        """The detail of a kind."""
        return self.details[kind]


async def refusal(call: Awaitable[object] | AsyncIterable[object]) -> Refusal:
    """Makes the call, which must fail, and reads its status."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _end(call)
    return read_refusal(caught.value)


async def _end(call: Awaitable[object] | AsyncIterable[object]) -> None:
    if isinstance(call, AsyncIterable):
        async for _ in call:
            pass
    else:
        await call


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads a status with its details, which must agree with it."""
    metadata: Any = error.trailing_metadata()  # the stubs do not say that these are pairs
    trailers: dict[str, str | bytes] = dict(metadata)
    packed = trailers.get("grpc-status-details-bin", b"")
    assert isinstance(packed, bytes)
    status = Status.FromString(packed)
    details: dict[type[Message], Message] = {}
    for kind in (BadRequest, ErrorInfo, RequestInfo, RetryInfo):
        found = kind()
        if any(detail.Unpack(found) for detail in status.details):
            details[kind] = found
    if status.details:
        assert (status.code, status.message) == (error.code().value[0], error.details())
    return Refusal(error.code(), error.details() or "", trailers, details)


def retrying(max_attempts: int) -> str:
    """A service config with retries, for clients without code of ours."""
    policy = {
        "maxAttempts": max_attempts,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": [{"service": "index.v1.ChatService"}], "retryPolicy": policy}]})


async def until(holds: Callable[[], bool]) -> None:
    """Polls a condition until it holds."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


def health_stub(channel: grpc.aio.Channel) -> Any:
    """A stub of the standard health service."""
    return health_pb2_grpc.HealthStub(channel)


def seeded(prompt: str, seed: int, max_tokens: int = 40) -> pb.ChatRequest:
    """A request with a seed, so that only one answer is right."""
    return pb.ChatRequest(prompt=prompt, sampling=pb.SamplingParams(seed=seed), max_tokens=max_tokens)


async def streamed(stub: Stub, request: pb.ChatRequest) -> str:
    """The text of the answer, with ChatStream."""
    return "".join([response.delta async for response in stub.ChatStream(request)])


async def unary(stub: Stub, request: pb.ChatRequest) -> str:
    """The text of the answer, with Chat."""
    return (await stub.Chat(request)).response
