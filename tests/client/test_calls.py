"""The calls of both clients against a scripted server."""

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from index_grpc_client import (
    AsyncChatStream,
    AsyncClient,
    ChatOptions,
    ChatResult,
    Chunk,
    Client,
    FinishReason,
    HealthStatus,
    IncompleteAnswerError,
    IndexGrpcError,
    InvalidRequestError,
    Message,
    ModelNotFoundError,
    Role,
    UnauthenticatedError,
    UnavailableError,
    Violation,
    assistant,
    user,
)
from index_grpc_client.v1 import chat_pb2

from .either import EitherClient, drained, settled
from .fake_server import FINGERPRINT, TEXT, WORDS, Failure, FakeServer, Script, bad_request, overloaded, unknown_model

ROOT = Path(__file__).resolve().parents[2]


async def test_chat_returns_the_whole_answer(either: EitherClient) -> None:
    result: ChatResult = await settled(either.chat("Hi", history=[("user", "a"), assistant("b")], request_id="r1"))
    assert result.text == TEXT
    assert result.finish_reason is FinishReason.STOP
    assert (result.usage.prompt_tokens, result.usage.total_tokens) == (4, 9)
    assert (result.timing.queue_s, result.timing.total_s) == (0.001, 1.0)
    assert result.history == (user("a"), assistant("b"), user("Hi"), assistant(TEXT))
    assert (result.id, result.model, result.seed) == ("r1", "demo", 7)
    assert result.fingerprint == FINGERPRINT
    assert result.create_time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


async def test_a_stream_gathers_what_chat_returns(either: EitherClient) -> None:
    options = ChatOptions(system="Be brief.", seed=3, logprobs=True, top_logprobs=2)
    stream = either.chat_stream("Hi", **options)
    chunks = await drained(stream)
    assert [chunk.delta for chunk in chunks] == [*WORDS, ""]
    assert [bool(chunk.start) for chunk in chunks] == [True, False, False, False, False]
    assert [bool(chunk.finish) for chunk in chunks] == [False, False, False, False, True]
    assert chunks[2].logprobs[0].token_bytes == "世界".encode()
    assert len(chunks[2].logprobs[0].top) == 2
    assert stream.text == TEXT
    whole: ChatResult = await settled(either.chat("Hi", **options))
    assert [token.token_bytes for token in stream.result().logprobs] == [token.token_bytes for token in whole.logprobs]
    assert dataclasses.replace(stream.result(), logprobs=()) == dataclasses.replace(whole, logprobs=())
    assert (whole.seed, whole.history[0]) == (3, Message(Role.SYSTEM, "Be brief."))


async def test_the_other_calls(either: EitherClient) -> None:
    count = await settled(either.count_tokens("Hi", system="Be brief."))
    assert (count.prompt_tokens, count.remaining_tokens) == (11, 89)
    model = await settled(either.model())
    assert (model.model, model.context_length, model.default_sampling.top_k) == ("demo", 100, 5)
    assert await settled(either.health()) is HealthStatus.SERVING


async def test_health_that_is_not_serving_is_returned(either: EitherClient, server: FakeServer) -> None:
    server.serve(False)
    assert await settled(either.health()) is HealthStatus.NOT_SERVING
    assert await settled(either.health("index.v1.ChatService")) is HealthStatus.NOT_SERVING
    assert await settled(either.health("no.such.Service")) is HealthStatus.SERVICE_UNKNOWN


async def test_a_server_that_is_about_to_stop_still_answers(either: EitherClient, server: FakeServer) -> None:
    server.serve(False)
    assert (await settled(either.chat("Hi"))).text == TEXT


async def test_unavailable_is_retried(either: EitherClient, script: Script) -> None:
    script.failures.extend([overloaded(0), overloaded(0)])
    assert (await settled(either.chat("Hi"))).text == TEXT
    script.failures.extend([overloaded(0), overloaded(0)])
    stream = either.chat_stream("Hi")
    await drained(stream)
    assert stream.text == TEXT
    assert len(script.requests) == 6


async def test_health_is_asked_again_too(either: EitherClient, script: Script) -> None:
    script.failures.extend([overloaded(0), overloaded(0)])
    assert await settled(either.health()) is HealthStatus.SERVING
    assert [request.service for request in script.requests[2:]] == [""]


async def test_large_requests_are_retried_too(either: EitherClient, script: Script) -> None:
    """By default gRPC keeps no more than 256 KiB to send again."""
    script.context_length = 4_000_000
    script.failures.append(overloaded(0))
    assert (await settled(either.chat("x" * 3_900_000))).text == TEXT


async def test_a_closed_client_says_so(either: EitherClient) -> None:
    await settled(either.close())
    with pytest.raises(ValueError, match=r"^the client is closed"):
        await settled(either.chat("Hi"))
    with pytest.raises(ValueError, match=r"^the client is closed"):
        either.chat_stream("Hi")


async def test_retries_end(either: EitherClient, script: Script) -> None:
    script.failures.extend([overloaded(9)] * 6)
    with pytest.raises(UnavailableError, match="queue is full") as caught:
        await settled(either.chat("Hi"))
    assert len(script.requests) == 5
    assert (caught.value.reason, caught.value.retry_after) == ("QUEUE_FULL", 9.0)


async def test_violations_are_listed(either: EitherClient, script: Script) -> None:
    script.failures.append(bad_request("2 violations", sampling__top_p="2 is over 1", prompt="is empty"))
    with pytest.raises(InvalidRequestError) as caught:
        await drained(either.chat_stream("", top_p=2))
    assert caught.value.violations == (Violation("sampling.top_p", "2 is over 1"), Violation("prompt", "is empty"))
    assert str(caught.value) == "2 violations\n  sampling.top_p: 2 is over 1\n  prompt: is empty"
    assert caught.value.reason == "INVALID_REQUEST"


async def test_an_unknown_model_is_named(either: EitherClient, script: Script) -> None:
    script.failures.append(unknown_model("no model other"))
    with pytest.raises(ModelNotFoundError, match="no model other"):
        await settled(either.chat("Hi", model="other", request_id="r2"))
    assert script.requests[0].model == "other"


async def test_not_found_is_a_model_only_if_the_reason_says_so(either: EitherClient, script: Script) -> None:
    script.failures.append(Failure(grpc.StatusCode.NOT_FOUND, "no such path"))
    with pytest.raises(IndexGrpcError, match="no such path") as caught:
        await settled(either.chat("Hi"))
    assert type(caught.value) is IndexGrpcError


async def test_health_hides_no_other_failure(either: EitherClient, script: Script) -> None:
    script.failures.append(Failure(grpc.StatusCode.UNAUTHENTICATED, "no key"))
    with pytest.raises(UnauthenticatedError, match="no key"):
        await settled(either.health())


async def test_a_stream_without_finish_raises(either: EitherClient, script: Script) -> None:
    script.cut_after = 2
    stream, chunks = either.chat_stream("Hi"), list[Chunk]()
    with pytest.raises(IncompleteAnswerError, match="without a finish") as caught:
        await drained(stream, chunks)
    assert len(chunks) == 2
    assert caught.value.text == stream.text == "Hello, "
    assert caught.value.request_id == "made-by-server"
    with pytest.raises(RuntimeError, match="not finished"):
        stream.result()


async def test_a_stream_that_fails_keeps_its_text(either: EitherClient, script: Script) -> None:
    script.fail_after = (3, overloaded())
    with pytest.raises(IncompleteAnswerError) as caught:
        await drained(either.chat_stream("Hi"))
    assert caught.value.text == "Hello, 世界"
    assert len(script.requests) == 1, "what had begun was retried"


@pytest.fixture
def killable_server() -> Iterator[subprocess.Popen[str]]:
    """A server in a separate process, which writes its address; it holds answers after two words."""
    command = [sys.executable, "-m", "tests.client.separate_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_the_text_so_far_is_kept_when_the_server_dies(
    kind: type[Client] | type[AsyncClient], killable_server: subprocess.Popen[str]
) -> None:
    assert killable_server.stdout
    client = kind(killable_server.stdout.readline().strip())
    stream = client.chat_stream("Hi")
    for _ in range(2):
        await (anext(stream) if isinstance(stream, AsyncChatStream) else asyncio.to_thread(next, stream))
    killable_server.kill()
    with pytest.raises(IncompleteAnswerError) as caught:
        await drained(stream)
    assert caught.value.text == "Hello, "
    await settled(client.close())


async def test_headers_of_a_call(server: FakeServer) -> None:
    with Client(server.address, api_key="secret") as client:
        client.model(request_id="r3", metadata={"x-team": "a"})
    headers = server.script.metadata[0]
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-request-id"] == "r3"
    assert headers["x-team"] == "a"
    assert str(headers["user-agent"]).startswith("index-grpc-client/")


async def test_a_given_channel_is_used_and_left_open(server: FakeServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        with Client("nowhere.invalid:1", channel=channel) as client:
            assert client.chat("Hi").text == TEXT
            assert client.health() is HealthStatus.SERVING
        assert client.stub.GetModel(chat_pb2.GetModelRequest()).model == "demo"
    async with grpc.aio.insecure_channel(server.address) as async_channel:
        async with AsyncClient("nowhere.invalid:1", channel=async_channel) as async_client:
            assert (await async_client.chat("Hi")).text == TEXT
        assert (await async_client.stub.GetModel(chat_pb2.GetModelRequest())).model == "demo"


async def test_credentials_encrypt() -> None:
    server = FakeServer(grpc.local_server_credentials())
    with Client(server.address, credentials=grpc.local_channel_credentials()) as client:
        assert client.chat("Hi").text == TEXT
    async with AsyncClient(server.address, credentials=grpc.local_channel_credentials()) as async_client:
        assert (await async_client.chat("Hi")).text == TEXT
    server.stop()
