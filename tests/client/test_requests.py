"""The requests that options become."""

import math
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from index_grpc_client import Client, Conversation, Message, Role, assistant, system, user
from index_grpc_client.limits import LONGEST_TIMEOUT_S
from index_grpc_client.message import AnyMessage
from index_grpc_client.options import RequestOptions
from index_grpc_client.request import QUICK_TIMEOUT, CallBuilder, chat_request
from index_grpc_client.v1 import chat_pb2

BUILD = CallBuilder(60, None)


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


def test_a_count_may_name_a_model() -> None:
    assert BUILD.count_tokens("Hi", model="demo").request == chat_pb2.CountTokensRequest(prompt="Hi", model="demo")
    assert BUILD.count_tokens("Hi", model=None).request == chat_pb2.CountTokensRequest(prompt="Hi")


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


def test_mistakes_raise_before_any_call() -> None:
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


@pytest.mark.parametrize("timeout", [0, -1, math.nan, -math.inf])
def test_invalid_timeouts_are_refused(timeout: float) -> None:
    expected = f"^timeout is {timeout:g} s; allowed is more than 0 s, and inf to wait for ever$"
    with pytest.raises(ValueError, match=expected):
        CallBuilder(timeout, api_key=None)
    with pytest.raises(ValueError, match=expected):
        CallBuilder(600, api_key=None).chat("Hi", timeout=timeout)


@pytest.mark.parametrize("timeout", [LONGEST_TIMEOUT_S + 1, 9.2e9, 1e300])
def test_timeouts_are_limited_to_the_longest_that_grpc_can_represent(timeout: float) -> None:
    assert CallBuilder(timeout, api_key=None).chat("Hi").timeout == LONGEST_TIMEOUT_S
    assert CallBuilder(600, api_key=None).model(timeout=timeout).timeout == LONGEST_TIMEOUT_S


@pytest.mark.parametrize("limit", [0, -1, 1e300, math.inf, math.nan, timedelta(0), timedelta.max])
def test_invalid_time_limits_are_refused(limit: float | timedelta) -> None:
    value = limit.total_seconds() if isinstance(limit, timedelta) else limit
    text = f"time_limit is {value:g} s; allowed is more than 0 s, at most 315,576,000,000 s; unset means no limit"
    with pytest.raises(ValueError, match=re.escape(text)):
        chat_request("Hi", time_limit=limit)
    assert chat_request("Hi", time_limit=315_576_000_000).time_limit.seconds == 315_576_000_000


def test_text_that_utf8_cannot_hold_is_named() -> None:
    build, bad = CallBuilder(600, None), "a\udcff"
    attempts: dict[str, Callable[[], object]] = {
        "prompt": lambda: chat_request(bad),
        "system": lambda: chat_request("Hi", system=bad),
        "history[1].content": lambda: chat_request("Hi", system="s", history=[user("a"), assistant(bad)]),
        "stop[1]": lambda: chat_request("Hi", stop=(text for text in ("a", bad))),
        "model": lambda: chat_request("Hi", model=bad),
        "service": lambda: build.health(bad),
    }
    for field, attempt in attempts.items():
        with pytest.raises(ValueError, match=re.escape(f"{field} holds '\\udcff' at character 1, which is not UTF-8;")):
            attempt()
    with pytest.raises(ValueError, match=r"^prompt holds"):
        build.count_tokens(bad)


@pytest.mark.parametrize(("value", "shown"), [("ké", "'\\xe9'"), ("k\n", "'\\n'"), ("k\udcff", "'\\udcff'")])
def test_headers_that_http_cannot_hold_are_named(value: str, shown: str) -> None:
    text = f"holds {shown} at character 1; allowed are printable ASCII characters; leave out all others"
    with pytest.raises(ValueError, match=f"^{re.escape(f'api_key {text}')}$"):
        CallBuilder(600, value)
    with pytest.raises(ValueError, match=f"^{re.escape(f'metadata x-team {text}')}$"):
        CallBuilder(600, None).model(metadata={"x-team": value})


@pytest.mark.parametrize("value", ["", "my call", "z" * 129, "é", "a\n"])
def test_request_ids_that_the_server_would_not_take(value: str) -> None:
    text = f"request_id is {value[:40]!a}; allowed are 1 to 128 ASCII characters, none of them a space"
    with pytest.raises(ValueError, match=re.escape(text)):
        CallBuilder(600, None).model(request_id=value)
    assert CallBuilder(600, None).model(request_id="z" * 128).request_id == "z" * 128


@pytest.mark.parametrize("key", ["X-Team", "", "a b", "é", ":path"])
def test_keys_of_metadata_that_http_cannot_hold(key: str) -> None:
    text = f"metadata has the key {key!a}; allowed are lower-case letters, digits and any of _-."
    with pytest.raises(ValueError, match=re.escape(text)):
        CallBuilder(600, None).model(metadata=[(key, "a")])


def test_metadata_in_bytes() -> None:
    call = CallBuilder(600, None).model(metadata={"x-a-bin": b"\x00\xff", "x-b": b"plain"})
    assert call.metadata == (("x-a-bin", b"\x00\xff"), ("x-b", b"plain"))
    with pytest.raises(ValueError, match="metadata x-a-bin is text; allowed are bytes"):
        CallBuilder(600, None).model(metadata={"x-a-bin": "text"})
    with pytest.raises(ValueError, match="metadata x-b holds"):
        CallBuilder(600, None).model(metadata={"x-b": b"\xff"})


@pytest.mark.parametrize("limit", [1e-7, 1e-12, math.ulp(0)])
def test_the_shortest_time_limit_is_a_microsecond(limit: float) -> None:
    assert chat_request("Hi", time_limit=limit).time_limit.nanos == 1_000


@pytest.mark.parametrize("name", ["max_tokens", "top_k", "seed", "top_logprobs"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_numbers_that_the_contract_cannot_hold_are_named(name: str, value: int) -> None:
    text = f"{name} is {value}; it is sent in 32 bits, which hold 0 to 4294967295"
    with pytest.raises(ValueError, match=re.escape(text)):
        chat_request("Hi", **{name: value})  # type: ignore[arg-type]


def test_metadata() -> None:
    build = CallBuilder(timeout=600, api_key="key")
    assert build.model().metadata == (("authorization", "Bearer key"),)
    call = build.model(request_id="r", metadata=[("x-a", "1"), ("x-a", "2")])
    assert call.metadata == (("x-a", "1"), ("x-a", "2"), ("authorization", "Bearer key"), ("x-request-id", "r"))
    assert call.request_id == "r"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prompt": 5}, "prompt is 5; allowed is a str"),
        ({"prompt": b"Hi"}, "prompt is b'Hi'; allowed is a str"),
        ({"system": 5}, "system is 5; allowed is a str"),
        ({"stop": [5]}, "stop[0] is 5; allowed is a str"),
        ({"stop": b"Hi"}, "stop[0] is b'Hi'; allowed is a str"),
        ({"model": 5}, "model is 5; allowed is a str"),
        ({"seed": 1.5}, "seed is 1.5; allowed are whole numbers"),
        ({"max_tokens": "9"}, "max_tokens is '9'; allowed are whole numbers"),
        ({"top_k": "3"}, "top_k is '3'; allowed are whole numbers"),
        ({"temperature": "hot"}, "temperature is 'hot'; allowed are numbers"),
        ({"top_p": [1]}, "top_p is [1]; allowed are numbers"),
        ({"top_k": True}, "top_k is True; allowed are whole numbers"),
        ({"stop": [None]}, "stop[0] is None; allowed is a str"),
        ({"time_limit": "5"}, "time_limit is '5'; allowed are numbers"),
        ({"prompt": None}, "prompt is None; allowed is a str"),
        ({"stop": 5}, "stop is 5; allowed are a str or several"),
        ({"history": 5}, "history is 5; allowed are messages, oldest first"),
    ],
)
def test_values_of_another_type_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(problem)}$"):
        chat_request(**{"prompt": "Hi"} | options)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: user(5), "the content of a message is 5; allowed is a str"),  # type: ignore[arg-type]
        (lambda: BUILD.model(timeout="5"), "timeout is '5'; allowed are numbers"),  # type: ignore[arg-type]
        (lambda: BUILD.model(request_id=5), "request_id is 5; allowed is a str"),  # type: ignore[arg-type]
        (lambda: BUILD.model(metadata={"a": 5}), "metadata a is 5; allowed are str and bytes"),  # type: ignore[arg-type]
        (lambda: CallBuilder(1, b"x"), "api_key is of type bytes; allowed is a str"),  # type: ignore[arg-type]
        (lambda: Client(None), "address is None; allowed is a str"),  # type: ignore[arg-type]
    ],
)
def test_values_of_another_type_are_named_everywhere(call: Callable[[], object], problem: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(problem)}$"):
        call()


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("ab", "metadata is 'ab'; allowed are a mapping or pairs of a key and a value"),
        (5, "metadata is 5; allowed are a mapping or pairs of a key and a value"),
        (["ab"], "metadata has 'ab'; allowed are pairs of a key and a value"),
        ([("a",)], "metadata has ('a',); allowed are pairs of a key and a value"),
        ({5: "a"}, "metadata has the key 5; allowed is a str"),
    ],
)
def test_metadata_of_another_type_is_named(metadata: Any, problem: str) -> None:
    message = f"^{re.escape(problem)}$"
    with pytest.raises(TypeError, match=message):
        BUILD.model(metadata=metadata)
    with Client() as client, pytest.raises(TypeError, match=message):
        Conversation(client).ask("Hi", metadata=metadata)


def test_a_role_may_be_given_by_its_name() -> None:
    assert Message("user", "Hi") == user("Hi")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'bogus' is not a valid Role"):
        Message("bogus", "Hi")  # type: ignore[arg-type]


def test_integers_too_large_for_a_float_count_as_infinity() -> None:
    assert chat_request("Hi", temperature=10**400).sampling.temperature == math.inf
    with pytest.raises(ValueError, match=r"^timeout is -inf s; allowed is more than 0 s"):
        BUILD.model(timeout=-(10**400))


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ValueError, match=r"^api_key is empty; leave it out"):
        CallBuilder(1, "")


def test_numbers_may_be_of_any_library() -> None:
    floats: list[Any] = [np.float32(0.5), Decimal("0.5"), Fraction(1, 2)]
    integers: list[Any] = [np.int64(3), np.uint8(3), np.array(3)]
    assert {chat_request("Hi", temperature=one).sampling.temperature for one in floats} == {0.5}
    assert {chat_request("Hi", max_tokens=one, seed=one).max_tokens for one in integers} == {3}
    assert {chat_request("Hi", time_limit=one).time_limit.nanos for one in floats} == {500_000_000}
