"""Completions are the answers of gRPC in OpenAI's format."""

import math
from typing import Any

import httpx2
import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.datatypes import Deadline, SamplingParams
from tests.http.asking import COMPLETIONS, asking, deltas, events, fake_http
from tests.server.asking import Stub, seeded
from tests.server.fake_runner import letters

PROMPTS = ["你好", "Tell me a story.", "😀 reserved_1"]


def logprobs_of(found: list[pb.TokenLogprob]) -> list[dict[str, Any]]:
    def one(entry: pb.TokenLogprob) -> dict[str, Any]:
        token = entry.token_bytes.decode(errors="replace")
        return {"token": token, "bytes": list(entry.token_bytes), "logprob": pytest.approx(entry.logprob)}

    return [one(entry) | {"top_logprobs": [one(candidate) for candidate in entry.top]} for entry in found]


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_the_same_seed_gives_the_same_text_as_grpc(http: httpx2.AsyncClient, stub: Stub, prompt: str) -> None:
    for seed in range(3):
        ours = await stub.Chat(seeded(prompt, seed))
        body = asking(prompt, seed=seed, max_tokens=40)
        whole = (await http.post(COMPLETIONS, json=body)).json()
        streamed = events((await http.post(COMPLETIONS, json=body | {"stream": True})).text)
        assert whole["choices"][0]["message"] == {"role": "assistant", "content": ours.response, "refusal": None}
        assert deltas(streamed) == ours.response
        usage = ours.finish.usage
        assert whole["usage"]["total_tokens"] == usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_greedy_answers_are_the_same_by_the_tutorials_path(http: httpx2.AsyncClient) -> None:
    greedy = asking("你好", temperature=0)
    answer = (await http.post(COMPLETIONS, json=greedy)).json()
    other = (await http.post("/", json={"prompt": "你好", "top_k": 1, "max_length": 20})).json()
    assert answer["choices"][0]["message"]["content"] == other["response"]


async def test_a_whole_answer(http: httpx2.AsyncClient, stub: Stub) -> None:
    response = await http.post(COMPLETIONS, json=asking(max_tokens=3), headers={"x-request-id": "my-id"})
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["x-request-id"] == answer["id"] == "my-id"
    assert (answer["object"], answer["model"]) == ("chat.completion", "random")
    assert answer["system_fingerprint"] == (await stub.GetModel(pb.GetModelRequest())).fingerprint
    (choice,) = answer["choices"]
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert answer["usage"]["completion_tokens"] == 3


async def test_an_answer_in_events() -> None:
    async with fake_http() as (_, http):
        body = asking(stream=True, stream_options={"include_usage": True})
        response = await http.post(COMPLETIONS, json=body, headers={"x-request-id": "my-id"})
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-request-id"] == "my-id"
        *found, last = events(response.text)
        assert {event["id"] for event in found} == {"my-id"}
        assert {event["object"] for event in found} == {"chat.completion.chunk"}
        assert all(event["usage"] is None for event in found)
        choices = [event["choices"][0] for event in found]
        assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(found) - 1)
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(found) - 1) + ["length"]
        assert choices[-1]["delta"] == {}
        assert deltas(found) == letters(20)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 20


async def test_no_usage_in_events_unless_asked_for() -> None:
    async with fake_http() as (_, http):
        found = events((await http.post(COMPLETIONS, json=asking(stream=True))).text)
        assert not any("usage" in event for event in found)


@pytest.mark.parametrize("top", [0, 2])
async def test_log_probabilities_are_those_of_grpc(http: httpx2.AsyncClient, stub: Stub, top: int) -> None:
    request = seeded("😀", seed=9)
    request.logprobs, request.top_logprobs = True, top
    expected = logprobs_of(list((await stub.Chat(request)).logprobs))
    body = asking("😀", seed=9, max_tokens=40, logprobs=True, top_logprobs=top)
    answer = (await http.post(COMPLETIONS, json=body)).json()
    assert answer["choices"][0]["logprobs"] == {"content": expected}
    found = events((await http.post(COMPLETIONS, json=body | {"stream": True})).text)
    in_events = [choice["logprobs"] for event in found for choice in event["choices"]]
    assert [entry for entries in in_events if entries for entry in entries["content"]] == expected
    assert all(math.isfinite(entry["logprob"]) for entry in answer["choices"][0]["logprobs"]["content"])


async def test_a_stop_string_ends_it() -> None:
    async with fake_http() as (_, http):
        for stop in ("de", ["de", "xyz"]):
            (choice,) = (await http.post(COMPLETIONS, json=asking(stop=stop))).json()["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == ("abc", "stop")


async def test_every_field_arrives() -> None:
    async with fake_http() as (server, http):
        sampling: dict[str, Any] = {
            "temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.25, "repetition_penalty": 1.25,
            "frequency_penalty": -1, "presence_penalty": 1.5, "seed": 2**32 - 1,
        }  # fmt: skip
        ignored: dict[str, Any] = {
            "user": "me",
            "store": True,
            "metadata": {"a": "b"},
            "service_tier": "auto",
            "tools": None,
        }
        body = asking(model="fake", n=1, time_limit=30.5, **sampling, **ignored)
        answer = (await http.post(COMPLETIONS, json=body)).json()
        asked = server.runner.last_request
        assert asked is not None
        assert asked.sampling == SamplingParams(**sampling)
        assert asked.deadline == Deadline(asked.arrival + 30.5, 30.5, "time_limit")
        assert (asked.max_tokens, answer["model"]) == (20, "fake")


@pytest.mark.parametrize("value", [-1, 0])
async def test_top_k_can_be_off(value: int) -> None:
    async with fake_http() as (server, http):
        await http.post(COMPLETIONS, json=asking(top_k=value))
        assert server.runner.last_request is not None
        assert server.runner.last_request.sampling.top_k == 0


async def test_unset_means_the_models_defaults() -> None:
    async with fake_http() as (server, http):
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": None, "temperature": None}
        await http.post(COMPLETIONS, json=body)
        asked = server.runner.last_request
        assert asked is not None
        assert (asked.max_tokens, asked.sampling) == (1024, SamplingParams(seed=asked.sampling.seed))
        await http.post(COMPLETIONS, json=body | {"max_tokens": 9, "max_completion_tokens": 4})
        assert server.runner.last_request is not None
        assert server.runner.last_request.max_tokens == 4


async def test_messages_give_the_same_prompt_as_over_grpc(http: httpx2.AsyncClient, stub: Stub) -> None:
    history = [
        pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."),
        pb.Message(role=pb.ROLE_USER, content="Hello\nyou"),
        pb.Message(role=pb.ROLE_ASSISTANT, content=""),
    ]
    request = seeded("你好", seed=4)
    request.history.extend(history)
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
        {"role": "user", "content": "你好"},
    ]
    answer = (await http.post(COMPLETIONS, json={"messages": messages, "seed": 4, "max_tokens": 40})).json()
    assert answer["choices"][0]["message"]["content"] == (await stub.Chat(request)).response


async def test_usage_has_the_number_of_cached_tokens(http: httpx2.AsyncClient) -> None:
    body = asking("once upon a time " * 12, seed=1)
    counts = [(await http.post(COMPLETIONS, json=body)).json()["usage"] for _ in range(2)]
    first, second = [usage["prompt_tokens_details"]["cached_tokens"] for usage in counts]
    assert first < second < counts[1]["prompt_tokens"]


async def test_the_model_is_listed(http: httpx2.AsyncClient) -> None:
    (model,) = (await http.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("random", "model", 512)
    assert (await http.get("/v1/models/random")).json() == model


async def test_one_line_in_the_log_for_each_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with fake_http() as (_, http):
        headers = {"x-request-id": "the-id"}
        await http.post(COMPLETIONS, json=asking(stream=True), headers=headers)
        await http.post("/", json={"prompt": "Hi", "top_p": 7}, headers=headers)
        await http.get("/health")
    lines = [record.getMessage() for record in caplog.records if record.name == "index_grpc.calls"]
    assert [line.split()[1:4] for line in lines] == [
        ["request_id=the-id", f"method={COMPLETIONS}", "code=OK"],
        ["request_id=the-id", "method=/", "code=INVALID_ARGUMENT"],
    ]
    assert "finish=max_tokens" in lines[0]
    assert "completion_tokens=20" in lines[0]
