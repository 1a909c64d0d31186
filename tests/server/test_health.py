"""grpc.health.v1 and reflection, as orchestrators, load balancers and command-line tools use them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.server.health import Health
from tests.server.asking import health_stub, refusal, streamed
from tests.server.fake_runner import FakeServer, fake_server, letters

CHAT = "index.v1.ChatService"
NAMES = ["", CHAT, "liveness"]
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
METHODS = [f"grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")]
METHODS += [f"{name}/ServerReflectionInfo" for name in REFLECTION]

UNKNOWN_NAMES = ["index.v1", "模型" * 5_000]


async def statuses(server: FakeServer) -> list[str]:
    """The statuses by Check, which must agree with those by List."""
    stub = health_stub(server.channel)
    checked = {name: (await stub.Check(HealthCheckRequest(service=name))).status for name in NAMES}
    listed = (await stub.List(HealthListRequest())).statuses
    assert {name: response.status for name, response in listed.items()} == checked
    return [name_of(status) for status in checked.values()]


def name_of(status: int) -> str:
    return str(HealthCheckResponse.ServingStatus.Name(status))


async def watched(server: FakeServer, service: str) -> AsyncIterator[str]:
    async for response in health_stub(server.channel).Watch(HealthCheckRequest(service=service)):
        yield name_of(response.status)


async def rest(watch: AsyncIterator[str]) -> list[str]:
    return [status async for status in watch]


async def test_ready_once_loaded_and_alive_from_the_start() -> None:
    async with fake_server(loaded=False) as server:
        assert await statuses(server) == ["NOT_SERVING", "NOT_SERVING", "SERVING"]
        await server.load()
        assert await statuses(server) == ["SERVING", "SERVING", "SERVING"]


async def test_not_ready_before_the_model_has_answered_once() -> None:
    async with fake_server(loaded=False) as server:
        server.runner.gate.clear()
        loading = asyncio.create_task(server.load())
        await server.until_num_open(1)
        assert await statuses(server) == ["NOT_SERVING", "NOT_SERVING", "SERVING"]
        server.runner.gate.set()
        await loading
        assert await statuses(server) == ["SERVING", "SERVING", "SERVING"]


async def test_a_load_that_fails_leaves_it_not_ready() -> None:
    async with fake_server(loaded=False) as server:

        def fails() -> Any:
            raise OSError("no such model")

        with pytest.raises(OSError, match="no such model"):
            await server.app.supervisor.load(fails)
        assert await statuses(server) == ["NOT_SERVING", "NOT_SERVING", "SERVING"]


@pytest.mark.parametrize("service", ["", CHAT])
async def test_a_watch_gets_each_change_and_ends_with_the_server(service: str) -> None:
    async with fake_server(loaded=False) as server:
        watch = watched(server, service)
        assert await anext(watch) == "NOT_SERVING"
        await server.load()
        assert await anext(watch) == "SERVING"
        await server.app.drain(0.0)
        assert await rest(watch) == ["NOT_SERVING"]


async def test_watches_stay_open_during_the_drain() -> None:
    """gRPC's own balancers begin an ended one again at once, even if it has ended with OK."""
    async with fake_server() as server:
        watch = watched(server, CHAT)
        assert await anext(watch) == "SERVING"
        drained = asyncio.create_task(server.app.drain(60.0))
        assert await anext(watch) == "NOT_SERVING"
        begun_later = watched(server, CHAT)
        assert await anext(begun_later) == "NOT_SERVING"
        rests = [asyncio.create_task(rest(each)) for each in (watch, begun_later)]
        await statuses(server)  # comes over the same connection, so after an end of the watches
        assert not any(each.done() for each in rests)
        drained.cancel()
        await server.app.stop()
        assert await asyncio.gather(*rests) == [[], []]


async def test_a_client_that_watches_health_does_so_once_during_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    num_watches, watch = 0, Health.Watch

    def counted(*arguments: Any) -> Any:
        nonlocal num_watches
        num_watches += 1
        return watch(*arguments)

    monkeypatch.setattr(Health, "Watch", counted)
    watching = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": CHAT}}
    options = [("grpc.service_config", json.dumps(watching))]
    async with fake_server() as server, grpc.aio.insecure_channel(f"ipv4:{server.address}", options=options) as channel:
        await channel.channel_ready()
        server.app.readiness.begin_drain()
        while channel.get_state() is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        for _ in range(20):  # meanwhile it could begin dozens
            await statuses(server)
        assert num_watches == 1


async def test_open_watches_do_not_hold_up_the_stop() -> None:
    async with fake_server(grace_seconds=3600) as server:
        watches = [watched(server, name) for name in [*NAMES, "unheard of"]]
        first = [await anext(watch) for watch in watches]
        assert first == ["SERVING", "SERVING", "SERVING", "SERVICE_UNKNOWN"]
        await server.app.stop()
        assert [await rest(watch) for watch in watches] == [[], [], [], []]


async def test_in_the_delay_before_the_drain_calls_are_answered_but_it_is_not_ready() -> None:
    async with fake_server() as server:
        drained = asyncio.create_task(server.app.drain(60.0))
        await asyncio.sleep(0)  # let the task begin
        assert await statuses(server) == ["NOT_SERVING", "NOT_SERVING", "SERVING"]
        assert await anext(watched(server, CHAT)) == "NOT_SERVING"
        assert await streamed(server.stub, pb.ChatRequest(prompt="Hi", max_tokens=5)) == letters(5)
        drained.cancel()


async def test_not_ready_once_the_engine_is_lost() -> None:
    async with fake_server() as server:
        watch = watched(server, "")
        assert await anext(watch) == "SERVING"
        await server.breaks_after(streamed(server.stub, pb.ChatRequest(prompt="Hi", max_tokens=5)))
        assert await anext(watch) == "NOT_SERVING"
        assert await statuses(server) == ["NOT_SERVING", "NOT_SERVING", "SERVING"]


@pytest.mark.parametrize("name", UNKNOWN_NAMES, ids=["short", "long"])
async def test_unknown_services(channel: grpc.aio.Channel, name: str) -> None:
    stub = health_stub(channel)
    found = await refusal(stub.Check(HealthCheckRequest(service=name)))
    assert found.code is grpc.StatusCode.NOT_FOUND
    assert found.message.startswith(f"no service '{name[:8]}")
    assert found.message.endswith(f"; there are '', '{CHAT}', 'liveness'")
    watch = stub.Watch(HealthCheckRequest(service=name))
    assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_health_is_answered_though_all_places_are_taken() -> None:
    async with fake_server(max_sequences=1, max_waiting=0) as server:
        server.runner.gate.clear()
        held = asyncio.create_task(streamed(server.stub, pb.ChatRequest(prompt="Hi", max_tokens=5)))
        await server.until_num_open(1)
        assert await statuses(server) == ["SERVING", "SERVING", "SERVING"]
        server.runner.gate.set()
        assert await held == letters(5)


@pytest.fixture(params=REFLECTION)
def reflect(request: pytest.FixtureRequest, channel: grpc.aio.Channel) -> Any:
    """The method of reflection, in both versions."""
    # The standard stub uses v1alpha; the messages of v1 are the same.
    if request.param != REFLECTION[0]:
        return ServerReflectionStub(channel).ServerReflectionInfo
    return channel.stream_stream(
        f"/{request.param}/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )


async def test_reflection_lists_the_services(reflect: Any) -> None:
    (listed,) = [response async for response in reflect(iter([ServerReflectionRequest(list_services="")]))]
    services = [service.name for service in listed.list_services_response.service]
    assert sorted(services) == sorted([CHAT, "grpc.health.v1.Health", *REFLECTION])


@pytest.mark.parametrize("symbol", [CHAT, f"{CHAT}.ChatStream", "index.v1.ChatRequest", "index.v1.ChatRequest.prompt"])
async def test_reflection_finds_the_file_of_a_symbol(reflect: Any, symbol: str) -> None:
    (found,) = [response async for response in reflect(iter([ServerReflectionRequest(file_containing_symbol=symbol)]))]
    assert pb.DESCRIPTOR.serialized_pb in found.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("symbol", ["", f"{CHAT}.Nothing", "index.v1.Nothing", "😀"])
async def test_reflection_does_not_find_what_is_not_there(reflect: Any, symbol: str) -> None:
    (found,) = [response async for response in reflect(iter([ServerReflectionRequest(file_containing_symbol=symbol)]))]
    assert found.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("path", METHODS)
async def test_a_message_that_is_too_large_is_refused(channel: grpc.aio.Channel, path: str) -> None:
    """Streams hold their last message for as long as they are open, and health asks for no key."""
    data = b"\x0a\x80\x80\x04" + b"a" * 65536  # field 1, 65536 bytes long
    found = await refusal(channel.stream_stream(f"/{path}", bytes, bytes)(iter([data])))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert found.message == f"the message has {len(data)} bytes; this method takes at most 65536; send less"


@pytest.mark.parametrize("path", METHODS)
async def test_bytes_that_do_not_parse_are_an_invalid_argument(
    channel: grpc.aio.Channel, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = b"\xff" * 20
    call: Any = channel.stream_stream(f"/{path}", bytes, bytes)(iter([data]))
    found = await refusal(call)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.message.startswith(f"{len(data)} bytes that do not parse; ")
    assert not any(record.exc_info for record in caplog.records)  # and no caller can fill the log
