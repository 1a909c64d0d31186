"""API keys: which calls are accepted, how others are refused, and limits."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from index_grpc_client import AsyncClient, LimitExceededError, UnauthenticatedError
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.access.keys import fingerprint
from index_grpc.server.call import Call
from index_grpc.server.observer import Observer
from tests.server.asking import Refusal, health_stub, refusal, until
from tests.server.fake_runner import FakeServer, fake_server, letters
from tests.server.holding import ENDLESS
from tests.server.scraping import scraped

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)
TEXT = letters(5)
UNKNOWN, EXHAUSTED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED


class CallRecorder(Observer):
    """Records every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call_ended(self, call: Call) -> None:
        self.calls.append(call)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of `alice`, `late` (expired), `slow` and `rare` (2 and 1 requests a minute), and `one` (a call at a time).

    Each key is equal to its name.
    """
    path = tmp_path / "keys.toml"
    limits = {
        "alice": "",
        "late": "expires = 2020-01-01",
        "slow": "requests_per_minute = 2",
        "rare": "requests_per_minute = 1",
        "one": "max_concurrent = 1",
    }
    write(path, **limits)
    return path


def write(path: Path, **entries: str) -> None:
    path.write_text("".join(f"[keys.{name}]\nhash = '{fingerprint(name)}'\n{more}\n" for name, more in entries.items()))


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def asked(server: FakeServer, key: str) -> str:
    return (await server.stub.Chat(REQUEST, metadata=bearer(key))).response


async def refused(server: FakeServer, key: str) -> Refusal:
    return await refusal(server.stub.Chat(REQUEST, metadata=bearer(key)))


async def test_every_call_asks_for_a_key(keys: Path) -> None:
    async with fake_server(api_keys_file=keys) as server:
        assert await asked(server, "alice") == TEXT
        stub: Any = server.stub
        for call, request in (
            (stub.Chat, REQUEST),
            (stub.ChatStream, REQUEST),
            (stub.CountTokens, pb.CountTokensRequest(prompt="Hi")),
            (stub.GetModel, pb.GetModelRequest()),
        ):
            found = await refusal(call(request))
            assert (found.code, found.reason) == (UNKNOWN, "KEY_MISSING")
            assert "authorization: Bearer KEY" in found.message
            assert found.request_id == found.trailers["x-request-id"]


@pytest.mark.parametrize(("key", "reason"), [("alice ", ""), ("Alice", "KEY_WRONG"), ("late", "KEY_EXPIRED")])
async def test_other_keys(keys: Path, key: str, reason: str) -> None:
    async with fake_server(api_keys_file=keys) as server:
        if not reason:
            assert await asked(server, key) == TEXT
            return
        found = await refused(server, key)
        assert (found.code, found.reason) == (UNKNOWN, reason)
        assert "Alice" not in found.message


async def test_nothing_is_parsed_before_the_key_is_known(keys: Path) -> None:
    async with fake_server(api_keys_file=keys) as server:
        call: Any = server.channel.unary_unary("/index.v1.ChatService/Chat", bytes, bytes)
        assert (await refusal(call(b"\xff"))).code is UNKNOWN
        assert (await refusal(call(b"\xff", metadata=bearer("alice")))).reason == "INVALID_REQUEST"


async def test_a_call_without_a_valid_key_takes_no_place(keys: Path) -> None:
    async with fake_server(api_keys_file=keys, max_sequences=1, max_waiting=0) as server:
        server.runner.gate.clear()
        held = asyncio.create_task(asked(server, "alice"))
        await server.until_num_open(1)
        assert (await refused(server, "nobody")).code is UNKNOWN
        assert (await refused(server, "alice")).reason == "OVERLOADED"
        server.runner.gate.set()
        assert await held == TEXT


async def test_observers_and_the_log_get_the_callers_name(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with fake_server(api_keys_file=keys) as server:
        recorder = CallRecorder()
        server.app.observers.members = [*server.app.observers.members, recorder]
        await asked(server, "slow")
        await asked(server, "slow")
        await refused(server, "slow")
        await refused(server, "nobody")
        await until(lambda: len(recorder.calls) == 4)
    assert [(call.caller, call.code) for call in recorder.calls] == [
        ("slow", "OK"),
        ("slow", "OK"),
        ("slow", "RESOURCE_EXHAUSTED"),
        ("", "UNAUTHENTICATED"),
    ]
    assert caplog.text.count("code=OK caller=slow ") == 2
    assert "code=RESOURCE_EXHAUSTED caller=slow reason=RATE_LIMITED" in caplog.text
    assert "code=UNAUTHENTICATED reason=KEY_WRONG" in caplog.text


async def test_callers_over_their_rate_are_told_when_to_retry(keys: Path) -> None:
    async with fake_server(api_keys_file=keys) as server:
        assert [await asked(server, "slow") for _ in range(2)] == [TEXT] * 2
        found = await refused(server, "slow")
        assert (found.code, found.reason) == (EXHAUSTED, "RATE_LIMITED")
        assert found.message.startswith("key slow may make 2 requests a minute; try again in ")
        assert 0 < found.retry_seconds <= 30
        assert int(found.trailers["grpc-retry-pushback-ms"]) / 1000 == found.retry_seconds
        assert await asked(server, "alice") == TEXT


async def test_calls_that_a_loading_server_refuses_do_not_count(keys: Path) -> None:
    async with fake_server(loaded=False, api_keys_file=keys) as server:
        assert [(await refused(server, "slow")).reason for _ in range(5)] == ["LOADING"] * 5
        await server.load()
        assert [await asked(server, "slow") for _ in range(2)] == [TEXT] * 2
        assert (await refused(server, "slow")).reason == "RATE_LIMITED"


@pytest.mark.parametrize(("method", "reason"), [("Chat", "ENGINE_LOST"), ("ChatStream", "RATE_LIMITED")])
async def test_an_answer_that_breaks_counts_if_a_part_was_sent(keys: Path, method: str, reason: str) -> None:
    async with fake_server(api_keys_file=keys) as server:
        server.runner.step_seconds = 0.002
        call = getattr(server.stub, method)(ENDLESS, metadata=bearer("rare"))
        held = asyncio.create_task(refusal(call))
        await until(lambda: server.runner.num_runs > 100)
        assert server.app.engine is not None
        server.app.engine.give_up()
        assert (await held).reason == "ENGINE_LOST"
        assert (await refused(server, "rare")).reason == reason


async def test_calls_at_a_time(keys: Path) -> None:
    async with fake_server(api_keys_file=keys) as server:
        server.runner.gate.clear()
        held = server.stub.ChatStream(REQUEST, metadata=bearer("one"))
        await server.until_num_open(1)
        found = await refused(server, "one")
        assert (found.code, found.reason) == (EXHAUSTED, "RATE_LIMITED")
        assert found.message == "key one has as many calls open as it may at a time, 1; wait for one to end"
        held.cancel()  # leaving frees the caller's place
        server.runner.gate.set()
        await server.until_num_open(0)
        assert await asked(server, "one") == TEXT


async def test_our_client_raises_the_matching_exceptions(keys: Path) -> None:
    async with fake_server(api_keys_file=keys) as server:
        async with AsyncClient(server.address, api_key="slow") as client:
            assert [(await client.chat("Hi", max_tokens=5)).text for _ in range(2)] == [TEXT] * 2
            with pytest.raises(LimitExceededError) as caught:
                await client.chat("Hi")
            assert caught.value.reason == "RATE_LIMITED"
            assert caught.value.retry_after is not None
        async with AsyncClient(server.address) as stranger:
            with pytest.raises(UnauthenticatedError, match="authorization: Bearer"):
                await stranger.chat("Hi")


async def test_keys_are_read_again(
    keys: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("index_grpc.access.files.CHECK_SECONDS", 0.01)
    caplog.set_level("INFO")
    async with fake_server(api_keys_file=keys) as server:
        write(keys, bob="")
        await until(lambda: "replaced the API keys" in caplog.text)
        assert await asked(server, "bob") == TEXT
        assert (await refused(server, "alice")).reason == "KEY_WRONG"
        await asyncio.to_thread(keys.write_text, "[keys.bob]")
        await until(lambda: "keys.bob.hash: Field required; what was read before stays in force" in caplog.text)
        assert await asked(server, "bob") == TEXT


def listing(server: FakeServer, key: str = "", **headers: str) -> Any:
    """Lists the services by reflection."""
    stub: Any = ServerReflectionStub(server.channel)
    requests = iter([ServerReflectionRequest(list_services="")])
    metadata = [*(bearer(key) if key else ()), *headers.items()]
    return stub.ServerReflectionInfo(requests, metadata=metadata)


async def check(server: FakeServer, key: str = "") -> int:
    metadata = bearer(key) if key else None
    response = await health_stub(server.channel).Check(HealthCheckRequest(), metadata=metadata)
    return int(response.status)


async def test_by_default_health_needs_no_key_and_reflection_does(keys: Path) -> None:
    async with fake_server(api_keys_file=keys) as server:
        assert await check(server) == HealthCheckResponse.SERVING
        found = await refusal(listing(server, **{"x-request-id": "mine"}))
        assert (found.code, found.reason, found.request_id) == (UNKNOWN, "KEY_MISSING", "mine")
        assert [len(response.list_services_response.service) async for response in listing(server, "alice")] == [4]


async def test_settings_can_require_a_key_for_health_and_none_for_reflection(keys: Path) -> None:
    async with fake_server(api_keys_file=keys, open_health=False, open_reflection=True) as server:
        assert (await refusal(check(server))).reason == "KEY_MISSING"
        assert (await refusal(check(server, "nobody"))).reason == "KEY_WRONG"
        assert [await check(server, "slow") for _ in range(5)] == [HealthCheckResponse.SERVING] * 5  # never limited
        assert [len(response.list_services_response.service) async for response in listing(server)] == [4]


async def test_clients_that_balance_by_health_work_when_health_needs_a_key(keys: Path) -> None:
    """When gRPC itself watches health, it sends no key. After any status but UNIMPLEMENTED it would never call."""
    async with fake_server(api_keys_file=keys, open_health=False) as server:
        watch = health_stub(server.channel).Watch(HealthCheckRequest())
        assert (await refusal(watch)).code is grpc.StatusCode.UNIMPLEMENTED
        async with AsyncClient(server.address, api_key="alice") as client:
            assert (await client.chat("Hi", max_tokens=5)).text == TEXT
            assert str(await client.health()) == "SERVING"


async def test_without_a_file_of_keys_no_key_is_required() -> None:
    async with fake_server() as server:
        assert await asked(server, "whatever") == TEXT
        assert [len(response.list_services_response.service) async for response in listing(server)] == [4]


async def test_metrics_count_calls_and_tokens_of_each_caller(keys: Path) -> None:
    async with fake_server(api_keys_file=keys, metrics_port=0) as server:
        await asked(server, "alice")
        await asked(server, "slow")
        await asked(server, "slow")
        await refused(server, "slow")
        await refused(server, "nobody")
        counted = await server.stub.CountTokens(pb.CountTokensRequest(prompt="Hi"), metadata=bearer("alice"))
        found = await scraped(server.app)
    calls, tokens = "index_grpc_caller_calls_total", "index_grpc_caller_tokens_total"
    assert found.value(calls, caller="alice", code="OK") == 2
    assert found.value(calls, caller="slow", code="OK") == 2
    assert found.value(calls, caller="slow", code="RESOURCE_EXHAUSTED") == 1
    assert found.value(calls) == 5
    assert found.value(tokens, caller="slow", kind="prompt") == 2 * counted.prompt_tokens
    assert found.value(tokens, caller="slow", kind="completion") == 10
    assert found.value(tokens) == 3 * (counted.prompt_tokens + 5)
