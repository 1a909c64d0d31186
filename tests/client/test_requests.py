"""What becomes of options on the wire."""

import math
from datetime import timedelta

import pytest
from index_grpc_client import Message, Role, assistant, system, user
from index_grpc_client.message import AnyMessage
from index_grpc_client.options import RequestOptions
from index_grpc_client.request import QUICK_TIMEOUT, CallBuilder, chat_request
from index_grpc_client.v1 import chat_pb2


def test_what_is_not_given_is_not_sent() -> None:
    assert chat_request("Hi") == chat_pb2.ChatRequest(prompt="Hi", sampling=chat_pb2.SamplingParams())
    nothing = dict.fromkeys(RequestOptions.__annotations__)
    assert chat_request("Hi", **nothing) == chat_request("Hi")


def test_zero_is_sent() -> None:
    request = chat_request("Hi", temperature=0, top_k=0, min_p=0, frequency_penalty=0, seed=0, max_tokens=0)
    for name in ("temperature", "top_k", "min_p", "frequency_penalty", "seed"):
        assert request.sampling.HasField(name), name
    assert request.HasField("max_tokens")
    assert not request.sampling.HasField("top_p")


def test_every_field_of_the_contract_has_an_option() -> None:
    fields = set(chat_pb2.ChatRequest.DESCRIPTOR.fields_by_name) - {"prompt", "sampling"}
    fields |= set(chat_pb2.SamplingParams.DESCRIPTOR.fields_by_name)
    assert set(RequestOptions.__annotations__) == fields | {"system"}


def test_options_reach_their_fields() -> None:
    request = chat_request("Hi", top_p=0.5, stop="\n", time_limit=1.5, logprobs=True, top_logprobs=2, model="demo")
    assert (request.sampling.top_p, list(request.stop), request.model) == (0.5, ["\n"], "demo")
    assert request.time_limit.ToTimedelta() == timedelta(seconds=1.5)
    assert (request.logprobs, request.top_logprobs) == (True, 2)
    assert list(chat_request("Hi", stop=["a", "b"]).stop) == ["a", "b"]
    assert chat_request("Hi", time_limit=timedelta(minutes=1)).time_limit.seconds == 60


def test_a_history_may_be_made_of_many_things() -> None:
    wire = chat_pb2.Message(role=chat_pb2.ROLE_USER, content="a")
    history: list[AnyMessage] = [
        system("s"),
        wire,
        ("assistant", "b"),
        Message(Role.USER, "c"),
        user("d"),
        assistant(""),
    ]
    request = chat_request("Hi", history=history)
    assert [(chat_pb2.Role.Name(turn.role), turn.content) for turn in request.history] == [
        ("ROLE_SYSTEM", "s"),
        ("ROLE_USER", "a"),
        ("ROLE_ASSISTANT", "b"),
        ("ROLE_USER", "c"),
        ("ROLE_USER", "d"),
        ("ROLE_ASSISTANT", ""),
    ]


def test_instructions_come_first_and_once() -> None:
    request = chat_request("Hi", system="Be brief.", history=[user("a")])
    assert [turn.content for turn in request.history] == ["Be brief.", "a"]
    with pytest.raises(ValueError, match="leave one of them out"):
        chat_request("Hi", system="Be brief.", history=[system("Be long.")])


def test_mistakes_are_told_at_once() -> None:
    with pytest.raises(TypeError, match="unknown option: temprature"):
        chat_request("Hi", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'bot' is not a valid Role"):
        chat_request("Hi", history=[("bot", "a")])
    with pytest.raises(TypeError, match="not 'text'"):
        chat_request("Hi", history=["text"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="valid Role"):
        chat_request("Hi", history=[("user", "a"), ("unspecified", "b")])


def test_timeouts() -> None:
    build = CallBuilder(timeout=600, api_key=None)
    assert build.chat("Hi").timeout == 600
    assert build.chat("Hi", timeout=5).timeout == 5
    assert build.chat("Hi", timeout=math.inf).timeout is None
    assert build.model().timeout == QUICK_TIMEOUT
    assert build.model(timeout=100).timeout == 100
    assert CallBuilder(timeout=5, api_key=None).count_tokens("Hi").timeout == 5


def test_metadata() -> None:
    build = CallBuilder(timeout=600, api_key="key")
    assert build.model().metadata == (("authorization", "Bearer key"),)
    call = build.model(request_id="r", metadata=[("x-a", "1"), ("x-a", "2")])
    assert call.metadata == (("x-a", "1"), ("x-a", "2"), ("authorization", "Bearer key"), ("x-request-id", "r"))
    assert call.request_id == "r"
