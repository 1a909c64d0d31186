"""All errors of a request are reported at once: code, field, value, limit and remedy."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.server.app import App
from tests.server.asking import MOST_TRAILER_BYTES, Refusal, Stub, refusal

CONTEXT_LENGTH = 512

ROLES = "set one of ROLE_SYSTEM (first message only), ROLE_USER, ROLE_ASSISTANT"
SYSTEM, USER = pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."), pb.Message(role=pb.ROLE_USER, content="Hi")
UNSET, UNKNOWN = pb.Message(content="Hi"), pb.Message(role=17, content="Hi")  # type: ignore[arg-type]

DURATIONS = "allowed are 0 to 315576000000 s plus 0 to 999999999 ns; send a valid google.protobuf.Duration"
MALFORMED_DURATIONS = [
    (seconds, nanos, f"is {seconds} s plus {nanos} ns; {DURATIONS}")
    for seconds, nanos in [(-1, 2**31 - 1), (1, 2**31 - 1), (5, -999_999_999), (2**63 - 1, 0), (315_576_000_001, 0)]
]

Case = tuple[dict[str, Any], dict[str, str]]

CASES: list[Case] = [
    ({"prompt": ""}, {"prompt": "is empty; send at least one character"}),
    ({"max_tokens": 0}, {"max_tokens": "is 0; allowed is 1 or more; unset means 1024"}),
    ({"stop": ["x"] * 100}, {"stop": "has 100 strings; allowed are 16; leave some out"}),
    ({"stop": [""]}, {"stop[0]": "is empty; allowed are 1 to 256 bytes; leave it out"}),
    ({"stop": ["ok", "你" * 86]}, {"stop[1]": "has 258 bytes; allowed are 1 to 256; shorten it"}),
    (
        {"logprobs": True, "top_logprobs": 21},
        {"top_logprobs": "is 21; allowed is 0 to 20; ask for fewer"},
    ),
    ({"top_logprobs": 3}, {"top_logprobs": "is 3 while logprobs is false; set logprobs to true"}),
    (
        {"time_limit": Duration()},
        {"time_limit": "is 0 s; allowed is more than 0 s; unset means no limit of its own"},
    ),
    (
        {"time_limit": Duration(seconds=-3)},
        {"time_limit": "is -3 s; allowed is more than 0 s; unset means no limit of its own"},
    ),
    *(
        ({"time_limit": Duration(seconds=seconds, nanos=nanos)}, {"time_limit": told})
        for seconds, nanos, told in MALFORMED_DURATIONS
    ),
    ({"history": [USER, UNSET]}, {"history[1].role": f"is unset; {ROLES}"}),
    ({"history": [UNKNOWN]}, {"history[0].role": f"is the unknown number 17; {ROLES}"}),
    (
        {"history": [SYSTEM, USER, SYSTEM]},
        {"history[2].role": "is ROLE_SYSTEM; allowed only in history[0]; move it there"},
    ),
]

RANGES: dict[str, tuple[str, str, list[Any]]] = {
    "temperature": ("from 0 to 2", "0.95", [-1.0, -1e-9, 2.1]),
    "top_p": ("above 0 to 1", "0.7", [0.0, -0.5, 1.01]),
    "min_p": ("from 0 to 1", "0", [-0.1, 1.1]),
    "repetition_penalty": ("above 0 to 10", "1.1", [0.0, -1.0, 10.5]),
    "frequency_penalty": ("from -2 to 2", "0", [-2.1, 2.1]),
    "presence_penalty": ("from -2 to 2", "0", [-2.1, 2.1]),
}
AS_IT_IS: Callable[[bytes], bytes] = bytes
NOT_FINITE = [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
NEARLY_IN_RANGE = defaultdict(
    list,
    top_p=[(1.0000001, "1.0000001"), (1.0000000000000002, "1.0000000000000002")],
    temperature=[(2.0000004, "2.0000004")],
)
"""Values with more digits than most, as a message shows them."""

SAMPLING_CASES: list[Case] = [
    (
        {"sampling": pb.SamplingParams(**{name: value})},
        {f"sampling.{name}": f"is {shown}; allowed is {allowed}; unset means {default}"},
    )
    for name, (allowed, default, values) in RANGES.items()
    for value, shown in [*((value, f"{value:g}") for value in values), *NOT_FINITE, *NEARLY_IN_RANGE[name]]
]


def asking(**fields: Any) -> pb.ChatRequest:
    values: dict[str, Any] = {"prompt": "Hi", "max_tokens": 2}
    return pb.ChatRequest(**(values | fields))


def raw_call(channel: grpc.aio.Channel, method: str, data: bytes) -> Any:
    path = f"/index.v1.ChatService/{method}"
    if method == "ChatStream":
        return channel.unary_stream(path, AS_IT_IS, AS_IT_IS)(data)
    return channel.unary_unary(path, AS_IT_IS, AS_IT_IS)(data)


def check_invalid(found: Refusal, expected: dict[str, str]) -> None:
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.reason == "INVALID_REQUEST"
    assert found.violations == expected
    field, description = next(iter(expected.items()))
    assert found.message.startswith(f"{field}: {description}")
    assert found.metadata == {}
    assert found.request_id == found.trailers["x-request-id"]
    assert RetryInfo not in found.details
    assert "grpc-retry-pushback-ms" not in found.trailers


@pytest.mark.parametrize(("fields", "expected"), CASES, ids=lambda case: " ".join(case))
async def test_a_bad_field_is_named_with_value_limit_and_remedy(
    stub: Stub, fields: dict[str, Any], expected: dict[str, str]
) -> None:
    check_invalid(await refusal(stub.Chat(asking(**fields))), expected)
    check_invalid(await refusal(stub.ChatStream(asking(**fields))), expected)


async def test_sampling_values_out_of_range_or_not_finite_are_refused(stub: Stub) -> None:
    for fields, expected in SAMPLING_CASES:
        check_invalid(await refusal(stub.ChatStream(asking(**fields))), expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": pb.SamplingParams(temperature=0, top_k=0, min_p=0, frequency_penalty=-2, presence_penalty=2)},
        {"sampling": pb.SamplingParams(temperature=2, top_p=1, min_p=1, repetition_penalty=10, seed=2**32 - 1)},
        {"sampling": pb.SamplingParams(top_k=10**9, top_p=1e-9, repetition_penalty=1e-3)},
        {"stop": ["x" * 256] * 16},
        {"logprobs": True, "top_logprobs": 20},
        {"history": [SYSTEM, USER, USER, pb.Message(role=pb.ROLE_ASSISTANT)]},
        {"time_limit": Duration(seconds=315_576_000_000, nanos=999_999_999)},
    ],
    ids=str,
)
async def test_the_ends_of_the_ranges_are_allowed(stub: Stub, fields: dict[str, Any]) -> None:
    assert (await stub.Chat(asking(**fields))).finish.usage.completion_tokens in (1, 2)


async def test_an_enormous_top_k_is_the_same_as_none(stub: Stub) -> None:
    texts = {
        (await stub.Chat(asking(max_tokens=30, sampling=pb.SamplingParams(seed=5, top_k=top_k)))).response
        for top_k in (0, 10**9, 2**32 - 1)
    }
    assert len(texts) == 1


async def test_all_violations_come_at_once(stub: Stub) -> None:
    sampling = {name: values[0] for name, (_, _, values) in RANGES.items()}
    found = await refusal(
        stub.ChatStream(
            asking(
                prompt="",
                history=[UNSET, SYSTEM, UNKNOWN],
                sampling=pb.SamplingParams(**sampling),
                max_tokens=0,
                stop=["", "ok", "x" * 257],
                top_logprobs=99,
                time_limit=Duration(nanos=-1),
                model="never reached",
            )
        )
    )
    bad = ["prompt", *(f"history[{index}].role" for index in range(3)), *(f"sampling.{name}" for name in sampling)]
    bad += ["max_tokens", "stop[0]", "stop[2]", "top_logprobs", "time_limit"]
    assert list(found.violations) == bad
    assert found.message == "prompt: is empty; send at least one character (and 14 more violations)"


@pytest.mark.parametrize("number", [30, 100, 500])
async def test_however_many_violations_there_are_the_status_stays_readable(stub: Stub, number: int) -> None:
    request_id = "i" * 128  # the longest id that is accepted
    call = stub.ChatStream(asking(history=[UNSET] * number), metadata=(("x-request-id", request_id),))
    found = await refusal(call)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert found.request_id == request_id
    num_more = "29" if number == 30 else "at least 99"
    assert found.message == f"history[0].role: is unset; {ROLES} (and {num_more} more violations)"
    assert 20 < len(found.violations) <= number
    assert found.size_on_the_wire <= MOST_TRAILER_BYTES


async def test_counting_tokens_checks_the_conversation_too(stub: Stub) -> None:
    found = await refusal(stub.CountTokens(pb.CountTokensRequest(history=[UNSET])))
    check_invalid(found, {"prompt": "is empty; send at least one character", "history[0].role": f"is unset; {ROLES}"})


@pytest.mark.parametrize("name", ["gpt-5", "模型" * 5_000, "%" * 20_000], ids=["short", "Chinese", "percent"])
async def test_another_model_is_not_found(stub: Stub, app: App, name: str) -> None:
    found = await refusal(stub.Chat(asking(model=name)))
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert found.message.startswith(f"model is '{name[:5]}")
    assert found.message.endswith("; this server serves only 'random'; send that name or leave model unset")
    assert found.metadata == {"served_model": "random"}
    assert BadRequest not in found.details
    assert found.size_on_the_wire <= MOST_TRAILER_BYTES


async def test_the_served_model_is_found_by_its_name(stub: Stub) -> None:
    assert (await stub.Chat(asking(model="random"))).model == "random"
    assert (await stub.CountTokens(pb.CountTokensRequest(prompt="Hi", model="random"))).prompt_tokens


async def test_another_models_tokens_are_not_counted(stub: Stub) -> None:
    counted = await refusal(stub.CountTokens(pb.CountTokensRequest(prompt="Hi", model="gpt-5")))
    answered = await refusal(stub.Chat(asking(model="gpt-5")))
    assert (counted.code, counted.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert (counted.message, counted.metadata) == (answered.message, answered.metadata)


@pytest.mark.parametrize("prompt", ["Hi " * 400, "x" * 10_000_000], ids=["somewhat", "10 MB"])
async def test_the_error_of_a_prompt_beyond_the_context_has_both_counts(stub: Stub, prompt: str) -> None:
    found = await refusal(stub.ChatStream(asking(prompt=prompt)))
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
    takes, holds, remedy = found.violations["prompt"].split("; ")
    assert holds == f"the context holds {CONTEXT_LENGTH} tokens and an answer needs at least one of them"
    assert remedy == "shorten the prompt or drop the oldest messages of the history"
    count = int(takes.removeprefix("takes ").removeprefix("at least ").split()[0])
    name = "min_prompt_tokens" if "at least" in takes else "prompt_tokens"
    assert found.metadata == {name: str(count), "context_length": str(CONTEXT_LENGTH)}
    assert len(prompt) / 10 <= count <= len(prompt) + 2
    if len(prompt) < 10_000:
        counted = await stub.CountTokens(pb.CountTokensRequest(prompt=prompt))
        assert (counted.prompt_tokens, counted.remaining_tokens) == (count, 0)


async def test_a_prompt_that_just_fits_is_answered_and_one_token_more_is_refused(stub: Stub) -> None:
    def request(length: int) -> pb.ChatRequest:
        return asking(prompt="0" * length, max_tokens=100)

    counted = await stub.CountTokens(pb.CountTokensRequest(prompt="0" * 400))
    fitting = 400 + counted.remaining_tokens - 1  # each zero is one token
    answer = await stub.Chat(request(fitting))
    assert answer.finish.usage.total_tokens == CONTEXT_LENGTH
    assert answer.finish.usage.completion_tokens == 1
    assert (await refusal(stub.Chat(request(fitting + 1)))).reason == "PROMPT_TOO_LONG"


@pytest.mark.parametrize("method", ["Chat", "ChatStream", "CountTokens"])
@pytest.mark.parametrize(
    "data",
    [b"\xff" * 40, b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x12\x05\x08\x02\x12\x01\xc0"],
    ids=["garbage", "cut short", "invalid UTF-8", "invalid UTF-8 in a message"],
)
async def test_bytes_that_do_not_parse(channel: grpc.aio.Channel, method: str, data: bytes) -> None:
    found = await refusal(raw_call(channel, method, data))
    remedy = "send a message of index/v1/chat.proto, strings in UTF-8"
    check_invalid(found, {"request": f"{len(data)} bytes that do not parse; {remedy}"})
    assert not any(word in found.message for word in ("Error", "google", ".py", "pb", "index_grpc"))


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    found = await refusal(raw_call(channel, "Sing", b""))
    assert found.code is grpc.StatusCode.UNIMPLEMENTED


async def test_concurrent_refusals_are_not_mixed_up(stub: Stub) -> None:
    async def refused(number: int) -> None:
        stops = ["x"] * (17 + number)
        found = await refusal(stub.Chat(asking(stop=stops), metadata=(("x-request-id", f"call-{number}"),)))
        assert found.violations["stop"].startswith(f"has {17 + number} strings")
        assert found.request_id == f"call-{number}"

    await asyncio.gather(*(refused(number) for number in range(50)))


async def test_more_messages_than_the_context_can_hold_are_refused(stub: Stub) -> None:
    one = asking(history=[UNSET]).SerializeToString()
    for number in (CONTEXT_LENGTH - 2, 1_000_000):
        request = pb.ChatRequest.FromString(one * number)
        found = await refusal(stub.Chat(request))
        assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
        assert f"at least {CONTEXT_LENGTH} tokens" in found.message
        counting = pb.CountTokensRequest(prompt="Hi", history=request.history)
        assert (await refusal(stub.CountTokens(counting))).reason == "PROMPT_TOO_LONG"
