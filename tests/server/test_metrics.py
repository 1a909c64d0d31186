"""Metrics: every call and step is counted once, and gauges show the current state, at any time of a server's life."""

import asyncio
import socket
import urllib.error
from pathlib import Path

import grpc
import pytest
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.errors import StartupError, Unauthenticated, Unavailable
from tests.process import serving
from tests.server.asking import refusal, seeded, streamed, unary, until
from tests.server.fake_runner import FAILS, FakeServer, fake_server
from tests.server.scraping import Scrape, fetched, metrics_address, scraped

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)
ENDLESS = pb.ChatRequest(prompt="Hi", max_tokens=4000)
CALLS = "rpc_server_call_duration_seconds_count"
CHATS = "gen_ai_server_request_duration_seconds_count"


async def test_answers_are_counted_with_their_tokens_and_times() -> None:
    async with fake_server(metrics_port=0) as server:
        await unary(server.stub, REQUEST)
        await streamed(server.stub, REQUEST)
        await server.stub.GetModel(pb.GetModelRequest())
        found = await scraped(server.app)
        for method in ("Chat", "ChatStream", "GetModel"):
            labels = {"rpc_method": f"index.v1.ChatService/{method}", "rpc_response_status_code": "OK"}
            assert found.value(CALLS, rpc_system_name="grpc", error_type="", **labels) == 1
        assert found.value(CHATS, gen_ai_request_model="fake", gen_ai_operation_name="chat", error_type="") == 2
        assert found.value("gen_ai_server_time_to_first_token_seconds_count") == 2
        assert found.value("gen_ai_server_time_per_output_token_seconds_count") == 2
        assert found.value("index_grpc_finishes_total", reason="max_tokens") == 2
        counted = await server.stub.CountTokens(pb.CountTokensRequest(prompt="Hi"))
        tokens = found.values("prompt_tokens_total", "completion_tokens_total", "cached_prompt_tokens_total")
        assert tokens == [2 * counted.prompt_tokens, 10, 0]
        assert found.value("index_grpc_queue_seconds_count") == 2


async def test_steps_are_counted_as_they_happen() -> None:
    async with fake_server(metrics_port=0) as server:
        before = await scraped(server.app)
        answer = await server.stub.Chat(REQUEST)
        await until(lambda: server.app.engine is not None and server.app.engine.occupancy.num_running == 0)
        after = await scraped(server.app)

        def rise(name: str) -> float:
            return after.value(f"index_grpc_{name}") - before.value(f"index_grpc_{name}")

        assert rise("generated_tokens_total") == 5
        assert rise("computed_prompt_tokens_total") == answer.finish.usage.prompt_tokens
        assert rise("step_seconds_count") == rise("batch_sequences_count") == rise("batch_sequences_sum") == 5


async def test_errors_are_counted_by_reason_and_no_label_has_text_of_callers() -> None:
    async with fake_server(metrics_port=0) as server:
        fails = (("x-request-id", f"{FAILS}s3cret"),)
        await refusal(server.stub.Chat(pb.ChatRequest()))
        await refusal(server.stub.Chat(pb.ChatRequest(prompt="Hi", model="s3cret")))
        await refusal(server.stub.ChatStream(REQUEST, metadata=fails))
        await refusal(server.channel.unary_unary("/index.v1.ChatService/s3cret", bytes, bytes)(b""))
        found = await scraped(server.app)
        for reason in ("INVALID_REQUEST", "MODEL_NOT_FOUND", "REQUEST_FAILED"):
            assert found.value("index_grpc_errors_total", reason=reason) == 1
            assert found.value(CHATS, error_type=reason) == 1
        assert found.value("index_grpc_errors_total", reason="OVERLOADED") == 0
        assert found.value(CALLS, rpc_response_status_code="INTERNAL", error_type="INTERNAL") == 1
        assert found.value(CALLS, rpc_response_status_code="INVALID_ARGUMENT", error_type="") == 1
        assert "s3cret" not in found.text


async def test_only_reasons_that_are_raised_begin_at_zero() -> None:
    async with fake_server(metrics_port=0) as server:
        samples = [sample for family in (await scraped(server.app)).families for sample in family.samples]
    reasons = {sample.labels["reason"] for sample in samples if sample.name == "index_grpc_errors_total"}
    assert {"KEY_MISSING", "OVERLOADED"} <= reasons
    assert not reasons & {Unauthenticated.reason, Unavailable.reason}


async def held(server: FakeServer, number: int) -> list[asyncio.Task[str]]:
    """Makes `number` endless calls, the first of which runs."""
    server.runner.step_seconds = 0.01
    calls = [asyncio.create_task(streamed(server.stub, ENDLESS)) for _ in range(number)]
    await server.until_num_open(number)
    await until(lambda: server.app.engine is not None and server.app.engine.occupancy.num_running == 1)
    return calls


async def test_gauges_show_what_the_engine_holds_and_fall_to_zero() -> None:
    names = ("running_requests", "waiting_requests", "kv_cache_used_positions", "kv_cache_used_ratio")
    async with fake_server(metrics_port=0, max_sequences=1, max_waiting=7) as server:
        calls = await held(server, 3)
        running, waiting, used, ratio = (await scraped(server.app)).values(*names)
        assert (running, waiting) == (1, 2)
        assert used % 64 == 0
        assert 0 < ratio == used / 4096
        for call in calls:
            call.cancel()
        await server.until_num_open(0)
        found = await scraped(server.app)
        assert found.values(*names, "waiting_prompt_tokens") == [0, 0, 0, 0, 0]
        assert found.values("max_running_requests", "max_waiting_requests") == [1, 7]
        assert found.value("index_grpc_cut_short_answers_total") == 3
        assert 2 * ENDLESS.max_tokens < found.value("index_grpc_saved_tokens_total") < 3 * ENDLESS.max_tokens
        assert found.value(CHATS, error_type="CANCELLED") == 3
        await asyncio.gather(*calls, return_exceptions=True)


async def test_metrics_show_that_the_server_is_loading_or_draining() -> None:
    async with fake_server(loaded=False, metrics_port=0) as server:

        async def state() -> tuple[float, list[str]]:
            found = await scraped(server.app)
            names = ("loading", "ready", "stalled", "lost", "draining")
            states = [name for name in names if found.value("index_grpc_state", state=name)]
            return found.value("index_grpc_ready"), states

        await refusal(server.stub.Chat(REQUEST))
        assert (await scraped(server.app)).value("index_grpc_errors_total", reason="LOADING") == 1
        assert await state() == (0, ["loading"])
        await server.load()
        assert await state() == (1, ["ready"])
        drained = asyncio.create_task(server.app.drain(60.0))
        await asyncio.sleep(0)  # let the task begin
        assert await state() == (0, ["draining"])
        drained.cancel()
        address = metrics_address(server.app)
        await server.app.stop()
        with pytest.raises(urllib.error.URLError, match="refused"):
            await asyncio.to_thread(fetched, f"http://{address}/metrics")


async def test_a_lost_engine_is_counted() -> None:
    async with fake_server(metrics_port=0) as server:
        await server.breaks_after(unary(server.stub, REQUEST))
        await server.app.supervisor.lost.wait()
        found = await scraped(server.app)
        assert found.value("index_grpc_engine_losses_total") == 1
        assert found.value("index_grpc_state", state="lost") == 1
        assert found.values("ready", "running_requests", "kv_cache_used_positions") == [0, 0, 0]


async def test_each_server_counts_its_own() -> None:
    async with fake_server(metrics_port=0) as one, fake_server(metrics_port=0) as other:
        await unary(one.stub, REQUEST)
        counts = [(await scraped(server.app)).value("index_grpc_completion_tokens_total") for server in (one, other)]
        assert counts == [5, 0]


@pytest.mark.parametrize("path", ["/", "/metrics/", "/favicon.ico?name=/metrics"])
async def test_other_paths_say_where_the_metrics_are(path: str) -> None:
    async with fake_server(metrics_port=0) as server:
        url = f"http://{metrics_address(server.app)}"
        with pytest.raises(urllib.error.HTTPError) as caught:
            await asyncio.to_thread(fetched, f"{url}{path}")
        with caught.value as answer:
            assert (answer.code, answer.read()) == (404, b"the metrics are at /metrics\n")
        name = "index_grpc_preemptions_total"
        assert name in await asyncio.to_thread(fetched, f"{url}/metrics?name[]={name}")


@pytest.mark.parametrize(("path", "code"), [("/metrics", 200), ("/", 404)])
async def test_head_is_answered_like_get_without_a_body(path: str, code: int) -> None:
    async with fake_server(metrics_port=0) as server:
        host, _, port = metrics_address(server.app).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert int(head.split()[1]) == code
    assert b"content-type: text/plain" in head.lower()
    assert body == b""


async def test_a_silent_reader_holds_up_nobody() -> None:
    async with fake_server(metrics_port=0) as server:
        host, _, port = metrics_address(server.app).rpartition(":")
        with socket.create_connection((host, int(port))):
            assert (await scraped(server.app)).value("index_grpc_ready") == 1


async def test_the_error_of_a_port_in_use_names_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f":{port} for metrics: another program .*--metrics-port"):
            async with fake_server(metrics_port=port):
                pass


async def test_ipv6_addresses() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with fake_server(metrics_port=0, metrics_host="::1") as server:
        assert metrics_address(server.app).startswith("[::1]:")
        assert (await scraped(server.app)).value("index_grpc_ready") == 1


async def test_the_error_of_a_foreign_address_names_the_flag() -> None:
    with pytest.raises(StartupError, match=r"192\.0\.2\.1:0 for metrics: this machine does not .*--metrics-host"):
        async with fake_server(metrics_port=0, metrics_host="192.0.2.1"):
            pass


async def test_the_error_of_a_name_that_no_host_can_have_names_the_flag() -> None:
    with pytest.raises(StartupError, match="the name cannot be resolved; check --metrics-host"):
        async with fake_server(metrics_port=0, metrics_host="x" * 70):
            pass


async def test_no_port_is_opened_unasked() -> None:
    async with fake_server() as server:
        assert "Metrics" not in {type(member).__name__ for member in server.app.observers.members}


def test_the_metrics_of_a_server_with_an_engine_process(checkpoint: Path) -> None:
    with serving("--model", str(checkpoint), "--port", "0", "--metrics-port", "0", "--engine-process") as process:
        url = process.wait_for(r"metrics on (http://127\.0\.0\.1:\d+/metrics)")[1]
        early = Scrape(fetched(url))
        assert sum(early.value("index_grpc_state", state=state) for state in ("loading", "ready")) == 1
        with grpc.insecure_channel(process.address()) as channel:
            ChatServiceStub(channel).Chat(seeded("Hi", seed=1, max_tokens=5))
        found = Scrape(fetched(url))
        assert found.value("index_grpc_completion_tokens_total") == 5
        assert found.value("index_grpc_generated_tokens_total") >= 5
        assert found.value("index_grpc_kv_cache_kept_positions") > 0
