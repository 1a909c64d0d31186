"""Errors have a status that HTTP clients know, and the same messages as over gRPC."""

import json
from typing import Any

import httpx2
import pytest
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.datatypes import ServedModel
from index_grpc.errors import (
    IndexGrpcError,
    InvalidRequest,
    Loading,
    MalformedHttp,
    ModelNotFound,
    PromptTooLong,
    RateLimited,
    Violation,
)
from index_grpc.http.completion_form import CompletionForm
from index_grpc.http.form import read
from index_grpc.http.problem import openai_error, problem_of
from index_grpc.server.status import CODES
from tests.http.asking import COMPLETIONS, asking, error_of, fake_http
from tests.server.asking import Stub, refusal
from tests.server.fake_runner import FAILS, SECRET

MIB = 2**20
UNSUPPORTED = "is not supported; leave it out"

Case = tuple[dict[str, Any], str]

CASES: list[Case] = [
    ({"tools": [{"type": "function"}]}, f"tools: {UNSUPPORTED}"),
    ({"audio": {"voice": "x"}}, f"audio: {UNSUPPORTED}"),
    ({"temprature": 1}, f"temprature: {UNSUPPORTED}"),
    ({"n": 2}, "n: is 2; it should be 1"),
    ({"response_format": {"type": "json_object"}}, "response_format.type: is 'json_object'; it should be 'text'"),
    ({"modalities": ["text", "audio"]}, "modalities[1]: is 'audio'; it should be 'text'"),
    ({"messages": []}, "messages: is missing or empty; send at least one message"),
    (
        {"messages": [{"role": "user", "content": "Hi"}] * 600},
        "messages: takes at least 601 tokens with its history; the context holds 512 tokens and an answer needs at "
        "least one of them; shorten the prompt or drop the oldest messages of the history",
    ),
    ({"messages": "Hi"}, "messages: is 'Hi'; it should be an array"),
    ({"messages": [None]}, "messages[0]: is null; it should be an object"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}] * 1100}]},
        "messages[0].content: is an array; it should have at most 1024 items, not 1100",
    ),
    ({"": 1}, '"": is not supported; leave it out'),
    ({"response_format": {"type": "text", "": 1}}, 'response_format."": is not supported; leave it out'),
    ({"n": float("nan")}, "n: is NaN; it should be 1"),
    ({"n": 10**4000}, f"n: is 1{'0' * 63}…; it should be a smaller number"),
    ({"messages": ["Hi"]}, "messages[0]: is 'Hi'; it should be an object"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role: is missing; set it"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].type: is 'image_url'; it should be 'text'",
    ),
    (
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        "messages[0].role: is 'assistant'; the last message should be the user's",
    ),
    (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"}]},
        "messages[1].role: is 'system'; allowed only in messages[0]; move it there",
    ),
    ({"seed": 1.0}, "seed: is 1.0; it should be a valid integer"),
    ({"seed": -1}, "seed: is -1; it should be greater than or equal to 0"),
    ({"top_k": -2}, "top_k: is -2; it should be greater than or equal to -1"),
    ({"top_k": 2**32}, "top_k: is 4294967296; it should be less than or equal to 4294967295"),
    ({"max_tokens": 2**32}, "max_tokens: is 4294967296; it should be less than or equal to 4294967295"),
    ({"max_tokens": "5"}, "max_tokens: is '5'; it should be a valid integer"),
    ({"top_p": True}, "top_p: is true; it should be a valid number"),
    ({"files": ["x"] * 600}, f"files: {UNSUPPORTED}"),
    ({"stop": ["a", 5]}, "stop[1]: is 5; it should be a valid string"),
    ({"time_limit": float("inf")}, "time_limit: is Infinity; it should be less than or equal to 1000000000"),
    ({f"field{number}": 1 for number in range(101)}, "body: is an object; it should have at most 100 fields"),
]

SAME_AS_GRPC: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"temperature": 3}, {"sampling": pb.SamplingParams(temperature=3)}, "temperature"),
    ({"min_p": -1}, {"sampling": pb.SamplingParams(min_p=-1)}, "min_p"),
    ({"max_tokens": 0}, {"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, {"max_tokens": 0}, "max_completion_tokens"),
    ({"stop": [""]}, {"stop": [""]}, "stop[0]"),
    ({"stop": ["x"] * 17}, {"stop": ["x"] * 17}, "stop"),
    ({"stop": ["x"] * 600}, {"stop": ["x"] * 600}, "stop"),
    ({"top_logprobs": 3}, {"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"messages": [{"role": "user", "content": ""}]}, {"prompt": ""}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "Hi " * 400}]}, {"prompt": "Hi " * 400}, "messages[0].content"),
]


@pytest.mark.parametrize(("fields", "message"), CASES, ids=lambda case: str(case)[:30])
async def test_what_completions_do_not_take_is_named(http: httpx2.AsyncClient, fields: Any, message: str) -> None:
    response = await http.post(COMPLETIONS, content=json.dumps(asking() | fields))
    error = error_of(response)
    assert response.status_code == 400
    assert error["message"] == message
    assert (error["type"], error["param"]) == ("invalid_request_error", message.partition(": ")[0])


@pytest.mark.parametrize(("fields", "theirs", "param"), SAME_AS_GRPC, ids=lambda case: str(case)[:30])
async def test_rules_and_words_are_those_of_grpc(
    http: httpx2.AsyncClient, stub: Stub, fields: Any, theirs: Any, param: str
) -> None:
    values: dict[str, Any] = {"prompt": "Hi"} | theirs
    ((_, description),) = (await refusal(stub.Chat(pb.ChatRequest(**values)))).violations.items()
    response = await http.post(COMPLETIONS, json=asking() | fields)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert error["message"] == f"{param}: {description}"


async def test_all_violations_are_reported_at_once(http: httpx2.AsyncClient) -> None:
    told = error_of(await http.post(COMPLETIONS, json=asking(n=3, tools=[1], seed=1.5)))
    assert {part.partition(": ")[0] for part in told["message"].split("; ") if ": " in part} == {"n", "seed", "tools"}
    ranges = error_of(await http.post(COMPLETIONS, json=asking(top_p=0, min_p=7)))
    assert ranges["message"].startswith("top_p: is 0; ")
    assert "; min_p: is 7; " in ranges["message"]


async def test_another_model_is_not_found(http: httpx2.AsyncClient) -> None:
    for response in (await http.post(COMPLETIONS, json=asking(model="gpt-5")), await http.get("/v1/models/a/b")):
        assert response.status_code == 404
        assert error_of(response)["code"] == "model_not_found"
        assert error_of(response)["metadata"] == {"served_model": "random"}


async def test_the_numbers_in_a_message_are_in_its_metadata_too(http: httpx2.AsyncClient) -> None:
    long = "Hi " * 400
    error = error_of(await http.post(COMPLETIONS, json=asking(long)))
    told = (await http.post("/", json={"prompt": long})).json()
    assert error["metadata"] == told["metadata"]
    assert error["metadata"]["context_length"] == "512"
    assert f"takes {error['metadata']['prompt_tokens']} tokens" in error["message"]
    assert "metadata" not in error_of(await http.post(COMPLETIONS, json=asking(top_p=0)))


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/v1/models/", "/v1/chat/completions/"])
async def test_other_paths(http: httpx2.AsyncClient, path: str) -> None:
    response = await http.post(path, json=asking(), headers={"x-request-id": "mine"})
    assert response.status_code in (404, 405)
    assert response.headers["x-request-id"] == "mine"
    message = error_of(response)["message"] if path.startswith("/v1/") else response.json()["message"]
    assert path in message


async def test_an_unknown_path_is_told_all_paths(http: httpx2.AsyncClient) -> None:
    told = (await http.get("/nowhere")).json()["message"]
    paths = told.removeprefix("no path /nowhere; there are ").split(", ")
    assert paths == ["/", COMPLETIONS, "/v1/models", "/v1/models/NAME", "/health", "/livez"]
    for path in paths:
        answer = (await http.get(path)).json()
        assert answer.get("reason") != "PATH_NOT_FOUND"
        assert answer.get("error", {}).get("code") != "path_not_found"


async def test_other_methods(http: httpx2.AsyncClient) -> None:
    for method, path, allowed in [("GET", "/", "POST"), ("PUT", COMPLETIONS, "POST"), ("POST", "/v1/models", "GET")]:
        response = await http.request(method, path)
        assert response.status_code == 405
        assert allowed in response.headers["allow"]
        assert allowed in response.text


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large(announced: bool) -> None:
    async def pieces() -> Any:
        for _ in range(17):
            yield b"x" * (MIB // 16)

    async with fake_http(max_message_mib=1) as (_, http):
        body = b"x" * (MIB + 1) if announced else pieces()
        response = await http.post(COMPLETIONS, content=body)
        assert response.status_code == 413
        assert error_of(response)["message"].endswith("allowed are 1 MiB; send less")
        assert error_of(response)["metadata"] == {"max_message_mib": "1"}
        fitting = json.dumps(asking("x")).encode().ljust(MIB)
        assert (await http.post(COMPLETIONS, content=fitting)).status_code == 200


@pytest.mark.parametrize("body", [b"\xff", b'{"messages": "\xff"}', b'{"messages": "\\ud800"}', b"", b"[" * 1000])
async def test_a_body_that_is_no_json(http: httpx2.AsyncClient, body: bytes) -> None:
    response = await http.post(COMPLETIONS, content=body)
    assert response.status_code == 400
    assert error_of(response)["message"].startswith("body: is not valid JSON (")


async def test_a_failure_shows_nothing_but_its_id() -> None:
    async with fake_http() as (_, http):
        response = await http.post(COMPLETIONS, json=asking(), headers={"x-request-id": f"{FAILS}1"})
        error = error_of(response)
        assert (response.status_code, error["type"], error["code"]) == (500, "server_error", "request_failed")
        assert error["message"].endswith(f"; request id {FAILS}1")
        assert SECRET not in response.text


def raised(kind: type[IndexGrpcError]) -> IndexGrpcError:
    if issubclass(kind, PromptTooLong):
        return kind(5, 4)
    if issubclass(kind, RateLimited):
        return kind("something", 1.0)
    return kind(Violation("x", "y")) if issubclass(kind, InvalidRequest) else kind("something")


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[IndexGrpcError]) -> None:
    error = raised(kind)
    problem = problem_of(error, "the-id")
    assert 400 <= problem.status <= 504
    assert (problem.status < 500) == issubclass(
        kind, InvalidRequest | MalformedHttp | ModelNotFound
    ) or problem.status in (
        401,
        413,
        429,
    )
    assert ("retry-after" in problem.headers) == (error.retry_after_seconds is not None)
    assert openai_error(problem)


def test_the_delay_before_a_retry_is_in_the_headers() -> None:
    headers = problem_of(Loading("x", 1.25), "").headers
    assert headers == {"retry-after": "2", "retry-after-ms": "1250"}


MODEL = ServedModel("m", 32_768, 1, 1, "cpu", "float32", "0.1.0-cpu-fake")


@pytest.mark.parametrize("piece", [b"[]", b'{"":1}', b'""', b"1", b'{"role":"user"}'])
def test_a_body_with_too_many_tiny_values_is_not_parsed(piece: bytes) -> None:
    body = b'{"messages":[' + b",".join([piece] * 100_000) + b"]}"
    with pytest.raises(InvalidRequest, match=r"^body: holds more than 100000 strings, commas and brackets"):
        read(CompletionForm, body, MODEL)


@pytest.mark.parametrize("text", ['[1, "x"], {"', "\\\\", '"' * 50, "\\"], ids=str)
def test_text_may_contain_any_number_of_brackets_and_quotes(text: str) -> None:
    asked = read(CompletionForm, json.dumps(asking(text * 40_000)).encode(), MODEL)
    assert asked.messages[0].text == text * 40_000
