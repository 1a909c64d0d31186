"""The contents of an answer: history, counts, ids, log-probabilities, and its line in the server's log."""

import asyncio
import math
import re
import time
from dataclasses import asdict

import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc import __version__
from index_grpc.chat import WHOLE_INTERVAL
from index_grpc.datatypes import DEFAULT_MAX_TOKENS, SamplingParams, TokenRequest
from index_grpc.engine.token_stream import TokenStream
from tests.conftest import MAX_SEQUENCES, MAX_WAITING
from tests.server.asking import Stub, refusal, seeded, until
from tests.server.fake_runner import fake_server, letters

SECRET = "my password is swordfish"

DOCUMENTED_DEFAULTS = {
    "temperature": 0.95,
    "top_p": 0.7,
    "top_k": 5,
    "min_p": 0.0,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
"""The defaults in the comments of protos/index/v1/chat.proto."""


async def messages(stub: Stub, request: pb.ChatRequest) -> list[pb.ChatStreamResponse]:
    return [response async for response in stub.ChatStream(request)]


def with_logprobs(request: pb.ChatRequest, top: int = 0) -> pb.ChatRequest:
    asked = pb.ChatRequest(logprobs=True, top_logprobs=top)
    asked.MergeFrom(request)
    return asked


async def test_the_history_grows_by_prompt_and_answer_and_can_be_sent_back(stub: Stub) -> None:
    history = [pb.Message(role=pb.ROLE_SYSTEM, content="Be brief.")]
    for turn, prompt in enumerate(["你好", "reserved_1 and </s> are only text", "😀"]):
        request = seeded(prompt, seed=turn, max_tokens=10)
        request.history.extend(history)
        answer = await stub.Chat(request)
        asked, said = list(answer.history)[-2:]
        assert list(answer.history)[:-2] == history
        assert (asked.role, asked.content) == (pb.ROLE_USER, prompt)
        assert (said.role, said.content) == (pb.ROLE_ASSISTANT, answer.response)
        history = list(answer.history)
    assert len(history) == 7


async def test_an_empty_answer_can_be_sent_back_too(stub: Stub) -> None:
    history = [pb.Message(role=pb.ROLE_USER, content="Hi"), pb.Message(role=pb.ROLE_ASSISTANT, content="")]
    answer = await stub.Chat(pb.ChatRequest(prompt="Hi", history=history, max_tokens=1))
    assert len(answer.history) == 4


async def test_the_history_changes_the_answer(stub: Stub) -> None:
    """The model sees the history: another history gives another answer."""
    texts = set()
    for content in ("Hello", "Goodbye"):
        request = seeded("Hi", seed=1, max_tokens=20)
        request.history.add(role=pb.ROLE_USER, content=content)
        texts.add((await stub.Chat(request)).response)
    assert len(texts) == 2


@pytest.mark.parametrize("prompt", ["x", "你好，世界。", "👩‍🚀 and reserved_0"])
async def test_counted_tokens_are_the_prompt_tokens_of_the_answer(stub: Stub, prompt: str) -> None:
    history = [pb.Message(role=pb.ROLE_USER, content="Hello"), pb.Message(role=pb.ROLE_ASSISTANT, content="你好")]
    counted = await stub.CountTokens(pb.CountTokensRequest(prompt=prompt, history=history))
    answer = await stub.Chat(pb.ChatRequest(prompt=prompt, history=history, max_tokens=3))
    usage = answer.finish.usage
    assert usage.prompt_tokens == counted.prompt_tokens
    assert counted.prompt_tokens + counted.remaining_tokens == 512
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 1 <= usage.completion_tokens <= 3


async def test_the_model_describes_itself(stub: Stub) -> None:
    model = await stub.GetModel(pb.GetModelRequest())
    described = {field.name: value for field, value in model.default_sampling.ListFields()}
    assert described == DOCUMENTED_DEFAULTS
    assert model.default_max_tokens == 1024
    assert (model.model, model.context_length, model.device, model.dtype) == ("random", 512, "cpu", "float32")
    assert (model.max_sequences, model.max_waiting) == (MAX_SEQUENCES, MAX_WAITING)
    assert model.max_waiting_tokens == 131_072
    assert model.server_version == __version__
    assert model.vocab_size == 500
    assert model.num_parameters > 1_000_000
    assert model.kv_cache_tokens >= 512


def test_the_documented_defaults_are_the_real_ones() -> None:
    assert asdict(SamplingParams()) == DOCUMENTED_DEFAULTS | {"seed": 0}
    assert DEFAULT_MAX_TOKENS == 1024


async def test_an_unset_field_means_its_default(stub: Stub) -> None:
    unset = await stub.Chat(seeded("Tell me more.", seed=3))
    spelled_out = seeded("Tell me more.", seed=3)
    spelled_out.sampling.MergeFrom((await stub.GetModel(pb.GetModelRequest())).default_sampling)
    assert (await stub.Chat(spelled_out)).response == unset.response
    greedy = seeded("Tell me more.", seed=3)
    greedy.sampling.temperature = 0
    assert (await stub.Chat(greedy)).response != unset.response


@pytest.mark.parametrize("given", ["abc-123", "!" * 128, "{}/~"])
async def test_a_callers_request_id_is_taken_over(stub: Stub, given: str) -> None:
    call = stub.Chat(seeded("Hi", 1, max_tokens=2), metadata=(("x-request-id", given),))
    assert (await call).id == given
    assert dict(await call.trailing_metadata())["x-request-id"] == given
    stream = stub.ChatStream(seeded("Hi", 1, max_tokens=2), metadata=(("x-request-id", given),))
    starts = [response.start.id async for response in stream]
    assert starts[0] == given
    assert dict(await stream.trailing_metadata())["x-request-id"] == given
    assert (await refusal(stub.Chat(pb.ChatRequest(), metadata=(("x-request-id", given),)))).request_id == given


@pytest.mark.parametrize("given", [None, "", "!" * 129, "two words", "x=1 code=OK"])
async def test_a_bad_request_id_is_replaced(stub: Stub, given: str | None) -> None:
    metadata = () if given is None else (("x-request-id", given),)
    call = stub.Chat(seeded("Hi", 1, max_tokens=2), metadata=metadata)
    made = (await call).id
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert dict(await call.trailing_metadata())["x-request-id"] == made


async def test_start_comes_first_and_finish_last_and_nothing_is_empty(stub: Stub) -> None:
    for seed in range(5):
        request = with_logprobs(seeded("你好", seed)) if seed % 2 else seeded("你好", seed)
        received = await messages(stub, request)
        assert [response.HasField("start") for response in received] == [True] + [False] * (len(received) - 1)
        assert [response.HasField("finish") for response in received] == [False] * (len(received) - 1) + [True]
        assert all(response.ListFields() for response in received)


async def test_start_tells_what_is_known_before_the_answer(stub: Stub) -> None:
    before = time.time()
    received = await messages(stub, seeded("你好", seed=77, max_tokens=5))
    start, finish = received[0].start, received[-1].finish
    assert (start.model, start.seed) == ("random", 77)
    assert start.prompt_tokens == finish.usage.prompt_tokens > 2
    assert before - 1 <= start.create_time.ToNanoseconds() / 1e9 <= time.time() + 1


async def test_queue_first_token_and_total_times_increase(stub: Stub) -> None:
    timing = (await stub.Chat(seeded("你好", 1))).finish.timing
    times = [timing.queue, timing.time_to_first_token, timing.total]
    assert 0 <= times[0].ToNanoseconds() < times[1].ToNanoseconds() < times[2].ToNanoseconds()


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_a_log_probability_for_each_token(stub: Stub, top: int) -> None:
    request = with_logprobs(seeded("你好", 4), top)
    answer = await stub.Chat(request)
    received = await messages(stub, request)
    assert [entry for response in received for entry in response.logprobs] == list(answer.logprobs)
    assert len(answer.logprobs) == answer.finish.usage.completion_tokens
    for entry in answer.logprobs:
        assert entry.logprob <= 0
        assert len(entry.top) == top
        values = [candidate.logprob for candidate in entry.top]
        assert values == sorted(values, reverse=True)
        assert entry.logprob <= max(values, default=0.0)
        assert sum(math.exp(value) for value in values) <= 1 + 1e-6
        assert len({candidate.token_id for candidate in entry.top}) == top
        assert not any(candidate.top for candidate in entry.top)
        for candidate in entry.top:
            assert (candidate.token_id != entry.token_id) or (candidate.logprob == entry.logprob)


async def test_the_bytes_of_the_tokens_are_the_text(stub: Stub) -> None:
    answer = await stub.Chat(with_logprobs(seeded("😀", 9), top=1))
    text = b"".join(entry.token_bytes for entry in answer.logprobs).decode("utf-8", "ignore")
    assert text == answer.response
    assert answer.response


async def test_no_log_probabilities_unless_asked_for(stub: Stub) -> None:
    assert not (await stub.Chat(seeded("你好", 4))).logprobs
    assert not any(response.logprobs for response in await messages(stub, seeded("你好", 4)))


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    """The fields of the log's lines about calls."""
    found = [record.getMessage() for record in caplog.records if record.name == "index_grpc.calls"]
    assert not any("swordfish" in record.getMessage() for record in caplog.records)
    return [dict(word.split("=", 1) for word in line.split()[1:]) for line in found]


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_one_line_in_the_log_for_each_answer(stub: Stub, caplog: pytest.LogCaptureFixture, method: str) -> None:
    caplog.set_level("DEBUG")
    request, metadata = seeded(SECRET, 1, max_tokens=5), (("x-request-id", "the-id"),)
    request.stop.append("swordfish")
    if method == "Chat":
        finish = (await stub.Chat(request, metadata=metadata)).finish
    else:
        finish = [response async for response in stub.ChatStream(request, metadata=metadata)][-1].finish
    (line,) = lines(caplog)
    assert (line["request_id"], line["method"], line["code"], line["finish"]) == ("the-id", method, "OK", "max_tokens")
    assert int(line["prompt_tokens"]) == finish.usage.prompt_tokens
    assert int(line["completion_tokens"]) == finish.usage.completion_tokens == 5
    seconds = [float(line[f"{name}_seconds"]) for name in ("queue", "first_token", "total")]
    assert seconds == sorted(seconds)


async def test_one_line_in_the_log_for_each_refusal(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    found = await refusal(stub.Chat(pb.ChatRequest(prompt=SECRET, max_tokens=0)))
    await refusal(stub.ChatStream(pb.ChatRequest(prompt=SECRET * 100)))
    await refusal(stub.Chat(pb.ChatRequest(prompt=SECRET, model=SECRET)))
    await until(lambda: len(lines(caplog)) == 3)
    bad, long, missing = lines(caplog)
    assert (bad["request_id"], bad["method"], bad["code"]) == (found.request_id, "Chat", "INVALID_ARGUMENT")
    assert (long["method"], long["code"]) == ("ChatStream", "INVALID_ARGUMENT")
    assert missing["code"] == "NOT_FOUND"
    assert all("finish" not in line for line in (bad, long, missing))


@pytest.mark.parametrize("method", ["Chat", "ChatStream"])
async def test_a_caller_that_leaves_frees_its_place_and_is_logged(
    caplog: pytest.LogCaptureFixture, method: str
) -> None:
    caplog.set_level("INFO")
    async with fake_server() as server:
        server.runner.step_seconds = 0.001
        call = getattr(server.stub, method)(pb.ChatRequest(prompt="Hi", max_tokens=4000))
        await server.until_num_open(1)
        call.cancel()
        await server.until_num_open(0)
        await until(lambda: len(lines(caplog)) == 1)
        (line,) = lines(caplog)
        assert (line["method"], line["code"]) == (method, "CANCELLED")


async def test_messages_have_at_least_as_many_tokens_as_the_interval() -> None:
    request = pb.ChatRequest(prompt="Hi", max_tokens=10)
    async with fake_server(stream_interval=4) as server:
        deltas = [message.delta for message in await messages(server.stub, request)]
    assert "".join(deltas) == letters(10)  # each token is a letter
    assert all(len(delta) >= 4 for delta in deltas[1:-1])


async def test_the_interval_is_long_for_whole_answers_and_one_with_stop_strings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fake_server(stream_interval=4) as server:
        intervals, engine = [], server.app.engine
        assert engine is not None
        submit = engine.submit

        def noted(request: TokenRequest, interval: int) -> TokenStream:
            intervals.append(interval)
            return submit(request, interval)

        monkeypatch.setattr(engine, "submit", noted)
        for stop in ([], ["there is no such text"]):
            request = pb.ChatRequest(prompt="Hi", max_tokens=2, stop=stop)
            await server.stub.Chat(request)
            await messages(server.stub, request)
    assert intervals == [WHOLE_INTERVAL, 4, 1, 1]


async def test_headers_come_no_sooner_than_the_first_token() -> None:
    """Until the headers come, gRPC may try a call again elsewhere."""
    request = pb.ChatRequest(prompt="Hi", max_tokens=2)
    async with fake_server() as server:
        server.runner.gate.clear()
        whole, stream = server.stub.Chat(request), server.stub.ChatStream(request)
        headers = [asyncio.ensure_future(call.initial_metadata()) for call in (whole, stream)]
        await server.until_num_open(2)
        await asyncio.sleep(0.2)
        assert not any(come.done() for come in headers)
        server.runner.gate.set()
        await asyncio.gather(*headers)
        assert (await whole).response == "".join([message.delta async for message in stream]) == letters(2)
