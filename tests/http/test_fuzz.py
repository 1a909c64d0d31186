"""For any body the answer is JSON, and the server never fails."""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import pytest

from index_grpc.http.completion_form import CompletionForm
from index_grpc.http.tutorial import TutorialForm
from tests.http.asking import COMPLETIONS, Json, abort, asking, fake_http

NUM_BODIES = 400
NUMBERS: list[Any] = [0, -0.0, -1, 1, 2, 2**31, 2**32 - 1, 2**32, 2**63, -(2**64), 10**400, 0.5, 1e308, 1e-320]
NOT_FINITE = [float("nan"), float("inf")]
TEXTS: list[Any] = ["", "x", "0", "你好😀", "\0", "</s>", "x" * 5000]
LISTS: list[Any] = [[], [[]], [""], ["x"] * 20, [None], [{}], [["a", "b"]], [["a"]], [["a", 1]]]
OBJECTS: list[Any] = [{}, {"": {}}, {"type": "text"}, {"include_usage": True}, {"role": "user", "content": "x"}]
UGLY = [None, True, False, *NUMBERS, *NOT_FINITE, *TEXTS, *LISTS, *OBJECTS, *([value] for value in OBJECTS)]
HEADS = [b"x: " + b"a" * 2**20, b"x: y\r\n" * 2**18, b"/" * 2**20, b"\0\r\n\r\n"]
FIELDS = {COMPLETIONS: sorted(CompletionForm.model_fields), "/": sorted(TutorialForm.model_fields)}


def body(rng: random.Random, path: str) -> Json:
    made = {"prompt": "Hi", "max_length": 3} if path == "/" else asking(max_completion_tokens=3)
    for _ in range(rng.randint(1, 3)):
        made[rng.choice([*FIELDS[path], "unheard"])] = rng.choice(UGLY)
    if rng.random() < 0.3 and path != "/":
        made["messages"] = [{"role": rng.choice(["user", "system", *UGLY]), "content": rng.choice(UGLY)}]
    return made


@pytest.mark.parametrize("path", FIELDS)
async def test_unusual_values_never_break_the_server(path: str) -> None:
    rng, statuses = random.Random(7), set()
    async with fake_http() as (server, http):
        for _ in range(NUM_BODIES):
            asked = body(rng, path)
            response = await http.post(path, content=json.dumps(asked))
            statuses.add(response.status_code)
            assert response.status_code in (200, 400, 404, 504), (asked, response.text)
            assert response.status_code == 200 or response.json()
        await server.until_num_open(0)
    assert {200, 400} <= statuses


@pytest.mark.parametrize("path", FIELDS)
async def test_bytes_cut_and_changed(path: str) -> None:
    rng, good = (
        random.Random(8),
        json.dumps({"prompt": "你好", "max_length": 3} | asking(), ensure_ascii=False).encode(),
    )
    async with fake_http() as (_, http):
        for _ in range(NUM_BODIES):
            data = bytearray(good[: rng.randint(0, len(good))] if rng.random() < 0.5 else good)
            for _ in range(rng.randint(0, 4) if data else 0):
                data[rng.randrange(len(data))] = rng.randrange(256)
            response = await http.post(path, content=bytes(data))
            assert response.status_code in (200, 400, 404), (bytes(data), response.text)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: str(head[:6]))
async def test_endless_or_invalid_headers_end_the_connection(head: bytes) -> None:
    async with fake_http() as (server, http):
        host, port = server.app.ports[0].address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\n" + head)
        with suppress(ConnectionError):
            await reader.read(-1)  # until it ends
        await abort(writer)
        assert (await http.get("/health")).status_code == 200
