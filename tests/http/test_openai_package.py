"""OpenAI's own package works when its base_url is changed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.background import background
from tests.conftest import settings
from tests.scripted import scripted
from tests.server.fake_runner import FakeServer, fake_server, letters

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module")
def blocking_client(checkpoint: Path) -> Iterator[openai.OpenAI]:
    runner, loaded = scripted(checkpoint)
    runner.says("你好", runner.tokenizer.encode("您好！"))
    with (
        background(settings(checkpoint, http_port=0), lambda: loaded) as server,
        openai.OpenAI(base_url=f"http://{server.app.ports[0].address}/v1", api_key="none") as client,
    ):
        yield client


@pytest.fixture
async def fake() -> AsyncIterator[tuple[FakeServer, openai.AsyncOpenAI]]:
    async with fake_server(http_port=0, max_sequences=1, max_waiting=0) as server:
        url = f"http://{server.app.ports[0].address}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            yield server, client


def test_blocking(blocking_client: openai.OpenAI) -> None:
    model = blocking_client.models.list().data[0].id
    answer = blocking_client.chat.completions.create(model=model, messages=HELLO)
    assert answer.choices[0].message.content == "您好！"
    assert answer.choices[0].finish_reason == "stop"
    said = cast("ChatCompletionMessageParam", answer.choices[0].message.to_dict())
    talk = [*HELLO, said, *HELLO]
    again = blocking_client.chat.completions.create(model=model, messages=talk, extra_body={"top_k": 3})
    assert again.usage is not None
    assert answer.usage is not None
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens


def test_blocking_stream(blocking_client: openai.OpenAI) -> None:
    options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": True}
    with blocking_client.chat.completions.create(
        model="scripted", messages=HELLO, stream=True, stream_options=options
    ) as stream:
        *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "您好！"
    assert last.usage is not None
    assert last.usage.completion_tokens > 1


def test_its_streaming_helper(blocking_client: openai.OpenAI) -> None:
    with blocking_client.chat.completions.stream(model="scripted", messages=HELLO, logprobs=True) as stream:
        done = stream.get_final_completion()
    assert done.choices[0].message.content == "您好！"
    assert done.choices[0].logprobs is not None
    assert done.choices[0].logprobs.content


def test_errors(blocking_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        blocking_client.chat.completions.create(model="gpt-5", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="temperature: is 3; allowed is from 0 to 2") as bad:
        blocking_client.chat.completions.create(model="scripted", messages=HELLO, temperature=3)
    assert (bad.value.type, bad.value.param) == ("invalid_request_error", "temperature")
    with pytest.raises(openai.BadRequestError, match=r"takes .* tokens with its history") as long:
        blocking_client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "x " * 2000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        blocking_client.models.retrieve("gpt-5")
    assert blocking_client.models.retrieve("scripted").id == "scripted"


async def test_asyncio(fake: tuple[FakeServer, openai.AsyncOpenAI]) -> None:
    _, client = fake
    answer = await client.chat.completions.create(model="fake", messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.content == letters(5)
    stream = await client.chat.completions.create(model="fake", messages=HELLO, max_completion_tokens=30, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == letters(30)


async def test_leaving_its_stream_frees_the_place(fake: tuple[FakeServer, openai.AsyncOpenAI]) -> None:
    server, client = fake
    server.runner.step_seconds = 0.001
    stream = await client.chat.completions.create(model="fake", messages=HELLO, max_tokens=4000, stream=True)
    await anext(aiter(stream))
    await server.until_num_open(1)
    await stream.close()
    await server.until_num_open(0)


async def test_its_retries_get_through_when_all_places_are_taken(fake: tuple[FakeServer, openai.AsyncOpenAI]) -> None:
    server, client = fake
    server.runner.gate.clear()
    held = asyncio.create_task(client.chat.completions.create(model="fake", messages=HELLO, max_tokens=5))
    await server.until_num_open(1)
    with pytest.raises(openai.InternalServerError) as full:
        await client.with_options(max_retries=0).chat.completions.create(model="fake", messages=HELLO)
    assert full.value.status_code == 503
    assert full.value.code == "overloaded"
    patient = client.with_options(max_retries=100)
    waiting = asyncio.create_task(patient.chat.completions.create(model="fake", messages=HELLO, max_tokens=6))
    server.runner.gate.set()
    assert (await held).choices[0].message.content == letters(5)
    assert (await waiting).choices[0].message.content == letters(6)


async def test_an_answer_that_breaks_off_is_an_error(fake: tuple[FakeServer, openai.AsyncOpenAI]) -> None:
    server, client = fake
    server.runner.step_seconds = 0.001
    stream = await client.chat.completions.create(model="fake", messages=HELLO, max_tokens=4000, stream=True)
    chunks = aiter(stream)
    await anext(chunks)
    assert server.app.engine is not None
    server.app.engine.give_up()
    with pytest.raises(openai.APIError, match="the engine broke") as broken:
        async for _ in chunks:
            pass
    assert broken.value.code == "engine_lost"
