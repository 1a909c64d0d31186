"""Programs in other languages make the calls of the contract; their output must be what the server promises."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from index_grpc_client import Client, assistant, system, user

from tests.contract.conftest import Built
from tests.contract.languages import BY_PROGRAM, shell
from tests.process import Process

pytestmark = [pytest.mark.languages, pytest.mark.timeout(600)]

OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 3, 4, 5
STORY = "讲个故事"


@dataclass(frozen=True, slots=True)
class Told:
    """What a program prints about a call; names are those of protobuf's JSON."""

    call: str
    code: int
    messages: list[dict[str, Any]]
    details: dict[str, dict[str, Any]]

    @property
    def only(self) -> dict[str, Any]:
        """The only message of a successful call."""
        assert self.code == OK
        (message,) = self.messages
        return message

    @property
    def text(self) -> str:
        """The text of an answer to Chat, in its only message, or to ChatStream."""
        return "".join(message.get("response", message.get("delta", "")) for message in self.messages)

    @property
    def reason(self) -> str:
        """The reason in ErrorInfo."""
        info = self.details["google.rpc.ErrorInfo"]
        assert info["domain"] == "index-grpc"
        assert self.details["google.rpc.RequestInfo"]["requestId"]
        return str(info["reason"])


@pytest.fixture(scope="module")
def told_by(address: str, built: Built) -> Callable[[str], dict[str, Told]]:
    """Runs a program by its name, only once."""

    @cache
    def run(program: str) -> dict[str, Told]:
        language = built(BY_PROGRAM[program].folder)
        done = shell(language.programs[program].format(address=address), language.workplace)
        assert (done.returncode, done.stderr) == (0, "")
        told = [Told(**json.loads(line)) for line in done.stdout.splitlines()]
        return {one.call: one for one in told}

    return run


@pytest.fixture(params=BY_PROGRAM)
def program(request: pytest.FixtureRequest) -> str:
    """The name of each program in turn."""
    return str(request.param)


@pytest.fixture
def told(program: str, told_by: Callable[[str], dict[str, Told]]) -> dict[str, Told]:
    """What the program printed, by call."""
    return told_by(program)


def test_chat(told: dict[str, Told], client: Client) -> None:
    expected = client.chat(STORY, seed=7, max_tokens=60)
    answer = told["chat"].only
    assert answer["response"] == expected.text
    assert [message["content"] for message in answer["history"]] == [STORY, expected.text]
    assert (answer["seed"], answer["model"]) == (7, "demo")
    assert answer["finish"]["reason"] == "FINISH_REASON_STOP"
    assert answer["finish"]["usage"]["completionTokens"] == expected.usage.completion_tokens


def test_chat_stream(told: dict[str, Told], program: str) -> None:
    stream = told["stream"]
    assert stream.code == OK
    assert stream.text == told["chat"].text
    first, *later = stream.messages
    *earlier, last = stream.messages
    assert len(later) > 1
    assert (first["start"]["id"], first["start"]["seed"]) == (f"{program}-stream", 7)
    assert last["finish"]["reason"] == "FINISH_REASON_STOP"
    assert not any("start" in message for message in later)
    assert not any("finish" in message for message in earlier)


def test_a_temperature_of_zero_is_greedy(told: dict[str, Told], client: Client) -> None:
    assert told["greedy"].text == client.chat(STORY, temperature=0).text != told["chat"].text


def test_a_top_k_of_zero_is_not_an_unset_one(told: dict[str, Told], client: Client) -> None:
    wild: dict[str, Any] = {"temperature": 2, "top_p": 1, "seed": 1, "max_tokens": 60}
    assert told["top-k-unset"].text == client.chat(STORY, **wild).text
    assert told["top-k-zero"].text == client.chat(STORY, top_k=0, **wild).text != told["top-k-unset"].text


def test_defaults_tell_zero_from_unset(told: dict[str, Told]) -> None:
    model = told["model"].only
    assert model["contextLength"] > 0
    assert model["defaultSampling"]["minP"] == 0
    assert "seed" not in model["defaultSampling"]


def test_a_conversation_beyond_ascii(told: dict[str, Told], client: Client) -> None:
    history = [system("你是助手。"), user("你好，世界 🌏"), assistant("你好！")]
    expected = client.chat("你叫什么？🙂", history=history, temperature=0)
    answer = told["conversation"].only
    assert answer["response"] == expected.text
    assert [(message["role"], message["content"]) for message in answer["history"]] == [
        ("ROLE_SYSTEM", "你是助手。"),
        ("ROLE_USER", "你好，世界 🌏"),
        ("ROLE_ASSISTANT", "你好！"),
        ("ROLE_USER", "你叫什么？🙂"),
        ("ROLE_ASSISTANT", expected.text),
    ]


def test_every_violation_is_reported_with_its_field(told: dict[str, Told]) -> None:
    refused = told["invalid"]
    assert (refused.code, refused.reason) == (INVALID_ARGUMENT, "INVALID_REQUEST")
    violations = refused.details["google.rpc.BadRequest"]["fieldViolations"]
    fields = ["prompt", "history[0].role", "sampling.temperature", "sampling.top_p", "max_tokens", "stop[0]"]
    assert [violation["field"] for violation in violations] == fields
    assert violations[2]["description"].startswith("is 3; allowed is from 0 to 2")


def test_another_model(told: dict[str, Told]) -> None:
    assert (told["other-model"].code, told["other-model"].reason) == (NOT_FOUND, "MODEL_NOT_FOUND")


def test_the_server_ends_a_cancelled_stream(told: dict[str, Told], program: str, server: Process) -> None:
    left = told["cancel"]
    assert left.code == CANCELLED
    assert "start" in left.messages[0]
    assert not any("finish" in message for message in left.messages)
    server.wait_for(f"id={re.escape(program)}-cancel method=ChatStream code=CANCELLED")


def test_a_deadline_ends_the_answer_in_time(told: dict[str, Told]) -> None:
    cut = told["deadline"]
    assert cut.code == OK
    assert cut.text
    finish = cut.messages[-1]["finish"]
    assert finish["reason"] == "FINISH_REASON_TIME_LIMIT"
    assert finish["usage"]["completionTokens"] < 2000


def test_what_cannot_begin_in_time(told: dict[str, Told]) -> None:
    assert (told["no-time"].code, told["no-time"].reason) == (DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT")
    assert (told["late"].code, told["late"].messages) == (DEADLINE_EXCEEDED, [])
