"""Load reports, with each call and as a stream, and how gRPC's own balancer uses them."""

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.server.load_report import TRAILER, UTILIZATION_WITHOUT_SERVICE, LoadReportService, Rate
from index_grpc.server.orca import OPEN_RCA_SERVICE, OrcaLoadReport, OrcaLoadReportRequest
from index_grpc.server.status import Context
from tests.server.asking import MOST_LOAD_TRAILER_BYTES, Stub, refusal, until
from tests.server.fake_runner import FakeServer, fake_server
from tests.server.holding import holding
from tests.server.raw import headers_and_trailers

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)


async def reported(server: FakeServer, method: str, request: Any) -> Any:
    """The load report in a call's trailers."""
    path = f"/index.v1.ChatService/{method}"
    found = await asyncio.to_thread(headers_and_trailers, server.address, path, request.SerializeToString())
    packed = found[TRAILER]
    assert len(TRAILER) + len(packed) + 32 <= MOST_LOAD_TRAILER_BYTES
    return OrcaLoadReport.FromString(base64.b64decode(packed + "=" * (-len(packed) % 4)))


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_an_answers_load_report_includes_the_answer_itself(method: str) -> None:
    async with fake_server(max_sequences=4) as server:
        alone = await reported(server, method, REQUEST)
        assert alone.application_utilization == 1 / 4
        assert alone.rps_fractional > 0
        assert alone.eps == 0
        assert dict(alone.utilization) == {"kv_cache": 0, "queue": 0}
        async with holding(server, 2):
            beside = await reported(server, method, REQUEST)
        assert beside.application_utilization == 3 / 4
        assert 0 < beside.utilization["kv_cache"] < 1
        assert beside.rps_fractional > 0


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_an_answer_that_a_stop_string_ends_counts_once(method: str) -> None:
    """The engine learns that the rest is not wanted only when its step ends, after the answer's trailers are sent."""
    async with fake_server(max_sequences=4) as server:
        server.runner.step_seconds = 0.05
        report = await reported(server, method, pb.ChatRequest(prompt="Hi", max_tokens=50, stop=["e"]))
        assert report.application_utilization == 1 / 4
        await server.until_num_open(0)
        assert server.app.engine is not None
        assert server.app.engine.num_wanted == 0


async def test_a_full_server_says_so_when_it_refuses() -> None:
    async with fake_server(max_sequences=1, max_waiting=1) as server:
        async with holding(server, 2):
            full = await reported(server, "Chat", REQUEST)
        assert full.application_utilization == 3
        assert full.utilization["queue"] == 1
        assert 0 < full.eps <= full.rps_fractional


async def test_invalid_requests_do_not_count_as_errors_of_the_server() -> None:
    async with fake_server() as server:
        report = await reported(server, "Chat", pb.ChatRequest())
        assert report.rps_fractional > 0
        assert report.eps == 0


async def test_a_loading_server_reports_more_load_than_a_full_one() -> None:
    async with fake_server(loaded=False) as server:
        report = await reported(server, "Chat", REQUEST)
        assert (report.application_utilization, dict(report.utilization)) == (1000, {})
        assert report.eps > 0


def drains(server: FakeServer) -> None:
    server.app.readiness.begin_drain()


def stalls(server: FakeServer) -> None:
    server.app.readiness.stall(True)


def is_lost(server: FakeServer) -> None:
    server.app.readiness.lose(back_at=time.monotonic() + 30.0)


@pytest.mark.parametrize("fails", [drains, stalls, is_lost])
async def test_a_server_that_takes_no_calls_reports_more_load_than_a_full_one(
    fails: Callable[[FakeServer], None],
) -> None:
    async with fake_server() as server:
        fails(server)
        assert (await reported(server, "Chat", REQUEST)).application_utilization == 1000


async def test_a_deadline_that_has_passed_is_no_error_of_the_server() -> None:
    request = pb.ChatRequest(prompt="Hi", time_limit=Duration(nanos=1))
    async with fake_server() as server:
        report = await reported(server, "Chat", request)
        assert report.rps_fractional > 0
        assert report.eps == 0


def test_a_rate_is_of_recent_events_only() -> None:
    rate = Rate()
    assert rate.per_second(100.0) == 0
    for number in range(1000):
        rate.count(100.0 + number / 5)
    assert rate.per_second(300.0) == pytest.approx(5, rel=0.05)
    assert rate.per_second(500.0) < 1e-6


def reports(server: FakeServer, interval: Duration | None = None) -> AsyncIterator[Any]:
    stream: Any = server.channel.unary_stream(
        f"/{OPEN_RCA_SERVICE}/StreamCoreMetrics", OrcaLoadReportRequest.SerializeToString, OrcaLoadReport.FromString
    )
    return aiter(stream(OrcaLoadReportRequest(report_interval=interval)))


async def rest(stream: AsyncIterator[Any]) -> list[float]:
    return [report.application_utilization async for report in stream]


async def test_a_stock_balancer_begins_one_stream_for_the_whole_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    num_streams, report_at_once, stream = 0, asyncio.Event(), LoadReportService.stream

    async def counted(*arguments: Any) -> AsyncIterator[Any]:
        nonlocal num_streams
        num_streams += 1
        async for report in stream(*arguments):
            yield report
            if report.application_utilization == UTILIZATION_WITHOUT_SERVICE:
                report_at_once.set()

    monkeypatch.setattr(LoadReportService, "stream", counted)
    weighted = {"weighted_round_robin": {"enableOobLoadReport": True, "oobReportingPeriod": "3600s"}}
    options = [("grpc.service_config", json.dumps({"loadBalancingConfig": [weighted]}))]
    async with (
        fake_server(load_report_service=True) as server,
        grpc.aio.insecure_channel(f"ipv4:{server.address}", options=options) as channel,
    ):
        await channel.channel_ready()
        await until(lambda: num_streams == 1)
        drained = asyncio.create_task(server.app.drain(60.0))
        await report_at_once.wait()
        for _ in range(20):  # meanwhile it could begin dozens
            await reported(server, "Chat", REQUEST)
        assert num_streams == 1
        drained.cancel()


async def test_reports_stream_until_the_stop() -> None:
    async with fake_server(load_report_service=True, max_sequences=4) as server:
        stream, endless = reports(server, Duration(nanos=1)), reports(server, Duration(seconds=315_576_000_000))
        assert (await anext(stream)).application_utilization == 0
        assert (await anext(endless)).application_utilization == 0
        async with holding(server, 2):
            assert (await anext(stream)).application_utilization == 2 / 4
        drained = asyncio.create_task(server.app.drain(60.0))
        assert (await anext(endless)).application_utilization == 1000  # at once, though its interval is years
        begun_later = reports(server, Duration(seconds=315_576_000_000))
        assert (await anext(begun_later)).application_utilization == 1000
        rests = [asyncio.create_task(rest(each)) for each in (endless, begun_later, stream)]
        await reported(server, "Chat", REQUEST)
        assert not any(each.done() for each in rests)  # gRPC's own balancer begins an ended one again at once
        drained.cancel()
        await server.app.stop()
        *others, of_stream = await asyncio.gather(*rests)
        assert others == [[1000], [1000]]
        assert of_stream[-1] == 1000


async def test_a_stream_that_is_just_sending_when_the_server_stops_sends_a_last_report() -> None:
    async with fake_server() as server:
        service = LoadReportService(server.app.load_reporter)
        request, unused = OrcaLoadReportRequest(report_interval=Duration(seconds=3600)), cast("Context", None)
        stream = service.stream(request, unused)
        assert (await anext(stream)).application_utilization == 0
        server.app.readiness.begin_drain()
        service.end()
        assert await rest(stream) == [UTILIZATION_WITHOUT_SERVICE]


async def test_reports_are_streamed_on_demand_only() -> None:
    async with fake_server() as server:
        assert (await refusal(reports(server))).code is grpc.StatusCode.UNIMPLEMENTED


WEIGHTED = {
    "loadBalancingConfig": [{"weighted_round_robin": {"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s"}}],
}
"""With gRPC's default periods it would take ten seconds until reports count."""

BUSY, IDLE = 10, 20
"""The `max_waiting` of each server, by which callers can tell which one answered."""


async def test_a_stock_balancer_prefers_the_less_loaded_server() -> None:
    async with two_servers() as (busy, idle), holding(busy, 3), balanced(busy, idle) as stub:
        answers: Counter[int] = Counter()
        while set(answers) != {BUSY, IDLE}:  # until it is connected to both
            answers = await answers_by_server(stub)
        while answers[IDLE] <= 2 * answers[BUSY]:
            answers = await answers_by_server(stub)


async def test_a_stock_balancer_prefers_a_full_server_to_one_that_drains() -> None:
    async with two_servers() as (drains, full), holding(full, 8), balanced(drains, full) as stub:
        answers: Counter[int] = Counter()
        while set(answers) != {BUSY, IDLE}:
            answers = await answers_by_server(stub)
        drains.app.readiness.begin_drain()
        while answers[IDLE] <= 2 * answers[BUSY]:
            answers = await answers_by_server(stub)


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[FakeServer, FakeServer]]:
    async with (
        fake_server(max_sequences=4, max_waiting=BUSY) as busy,
        fake_server(max_sequences=4, max_waiting=IDLE) as idle,
    ):
        yield busy, idle


@asynccontextmanager
async def balanced(*servers: FakeServer) -> AsyncIterator[Stub]:
    """A stub without code of ours, that spreads calls over the servers by their load reports. Takes at most 30 s."""
    ports = ",".join(f"127.0.0.1:{server.address.rpartition(':')[2]}" for server in servers)
    options = [("grpc.service_config", json.dumps(WEIGHTED))]
    async with asyncio.timeout(30), grpc.aio.insecure_channel(f"ipv4:{ports}", options=options) as channel:
        yield ChatServiceStub(channel)


async def answers_by_server(stub: Stub) -> Counter[int]:
    return Counter([(await stub.GetModel(pb.GetModelRequest())).max_waiting for _ in range(30)])
