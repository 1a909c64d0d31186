"""`POST /` answers clients of the usual tutorial's server without a change to them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from index_grpc.datatypes import Message, Role, SamplingParams
from index_grpc.text.layout import prompt_ids
from tests.background import background
from tests.conftest import settings
from tests.http.asking import fake_http
from tests.scripted import scripted
from tests.server.fake_runner import letters

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture(scope="module")
def url(checkpoint: Path) -> Iterator[str]:
    """The address of a server that answers 你好, without a slash at the end, as the tutorial prints it."""
    runner, loaded = scripted(checkpoint)
    runner.says("你好", runner.tokenizer.encode("您好！"))
    with background(settings(checkpoint, http_port=0), lambda: loaded) as server:
        yield f"http://{server.app.ports[0].address}"


def get_completion(url: str, prompt: str) -> str:
    """The client code of the tutorial."""
    headers = {"Content-Type": "application/json"}
    response = requests.post(url=url, headers=headers, data=json.dumps({"prompt": prompt}))
    text: str = response.json()["response"]
    return text


def test_the_tutorials_caller(url: str) -> None:
    assert get_completion(url, "你好") == "您好！"
    assert get_completion(f"{url}/", "你好") == "您好！"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_tutorials_curl(url: str) -> None:
    command = ["curl", "-s", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", '{"prompt": "你好"}']
    printed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert re.fullmatch(TIME, printed.pop("time"))
    assert printed == {"response": "您好！", "history": [["你好", "您好！"]], "status": 200}


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_the_content_type_of_the_body_does_not_matter(url: str, kind: str | None) -> None:
    body = "\ufeff" + json.dumps({"prompt": "你好"}, ensure_ascii=False)
    answer = requests.post(url, body.encode(), headers=None if kind is None else {"Content-Type": kind})
    assert answer.json()["response"] == "您好！"
    assert answer.headers["content-type"] == "application/json"


def test_the_history_grows_and_can_be_sent_back(url: str) -> None:
    history: list[list[str]] = []
    for prompt in ("Hello", "你好", "😀"):
        answer = requests.post(url, json={"prompt": prompt, "history": history, "max_length": 5}).json()
        assert answer["history"] == [*history, [prompt, answer["response"]]]
        history = answer["history"]
    assert len(history) == 3


NOTHING = dict.fromkeys(("history", "max_length", "top_p", "top_k", "temperature", "repetition_penalty"))


@pytest.mark.parametrize("fields", [{}, NOTHING, dict.fromkeys(NOTHING, 0), {"unheard": "of", "seed": "x"}], ids=str)
async def test_absent_null_and_zero_mean_the_default(fields: dict[str, Any]) -> None:
    async with fake_http() as (server, http):
        text = (await http.post("/", json={"prompt": "Hi"} | fields)).json()["response"]
        asked = server.runner.last_request
        assert asked is not None
        assert asked.max_tokens == 1024
        assert asked.sampling == SamplingParams(seed=asked.sampling.seed)
        assert text == letters(1024)


async def test_given_fields_and_the_history_reach_the_engine() -> None:
    async with fake_http() as (server, http):
        fields = {"top_p": 0.5, "top_k": 3, "temperature": 1, "repetition_penalty": 1.5}
        history = [["Hello", "Good day"], ["What?", ""]]
        await http.post("/", json={"prompt": "Hi", "history": history, "max_length": 7, **fields})
        asked = server.runner.last_request
        assert asked is not None
        expected = SamplingParams(top_p=0.5, top_k=3, temperature=1.0, repetition_penalty=1.5, seed=asked.sampling.seed)
        assert (asked.max_tokens, asked.sampling) == (7, expected)
        turns = [("Hello", Role.USER), ("Good day", Role.ASSISTANT), ("What?", Role.USER), ("", Role.ASSISTANT)]
        messages = [*(Message(role, text) for text, role in turns), Message(Role.USER, "Hi")]
        assert asked.prompt_ids == prompt_ids(server.loaded.tokenizer, messages)


PROBLEMS = {
    "{": "body: is not valid JSON (EOF while parsing an object at line 1 column 1); send a JSON object in UTF-8",
    '"Hi"': "body: is not a JSON object; send an object such as {...}",
    "{}": "prompt: is empty; send at least one character",
    '{"prompt": 5}': "prompt: is 5; it should be a valid string",
    '{"prompt": "Hi", "top_p": 2}': "top_p: is 2; allowed is above 0 to 1; unset means 0.7",
    '{"prompt": "Hi", "top_k": -1}': "top_k: is -1; it should be greater than or equal to 0",
    '{"prompt": "Hi", "history": [["a"]]}': "history[0][1]: is missing; set it",
    '{"prompt": "Hi", "history": ["ab"]}': "history[0]: is 'ab'; it should be an array",
    '{"prompt": "Hi", "history": [["a", "b", "c"]]}': "history[0]: is an array; it should have at most 2 items, not 3",
    '{"prompt": "Hi", "history": [["a", null]]}': "history[0][1]: is null; it should be a valid string",
    '{"prompt": "", "temperature": NaN}': (
        "prompt: is empty; send at least one character; temperature: is NaN; allowed is from 0 to 2; unset means 0.95"
    ),
}


async def test_violations_are_reported_with_a_status() -> None:
    async with fake_http() as (_, http):
        for body, message in PROBLEMS.items():
            response = await http.post("/", content=body, headers={"x-request-id": "mine"})
            told = response.json()
            assert re.fullmatch(TIME, told.pop("time"))
            assert told == {"status": 400, "message": message, "reason": "INVALID_REQUEST"}
            assert response.status_code == 400
            assert response.headers["x-request-id"] == "mine"
