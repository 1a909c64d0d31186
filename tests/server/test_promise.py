"""Each promise about streams, for texts of every kind cut into tokens in every way."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from tests import conftest
from tests.background import background
from tests.scripted import ScriptedRunner, scripted

numbers = itertools.count()


@dataclass
class ScriptedServer:
    """A real server with a scripted runner."""

    runner: ScriptedRunner
    stub: ChatServiceStub

    def ask(self, ids: list[int], **fields: object) -> tuple[list[pb.ChatStreamResponse], pb.ChatResponse]:
        """The messages of ChatStream, and the response of Chat, for an answer of these ids."""
        prompt = f"prompt {next(numbers)}"
        self.runner.says(prompt, ids)
        request = pb.ChatRequest(prompt=prompt, sampling=pb.SamplingParams(seed=1), **fields)  # type: ignore[arg-type]
        return list(self.stub.ChatStream(request)), self.stub.Chat(request)


@pytest.fixture(scope="module")
def scripted_server(checkpoint: Path) -> Iterator[ScriptedServer]:
    runner, loaded = scripted(checkpoint)
    chosen = conftest.settings(checkpoint)
    with background(chosen, lambda: loaded) as server, grpc.insecure_channel(server.address) as channel:
        yield ScriptedServer(runner, ChatServiceStub(channel))


alphabet = st.sampled_from(["a", "b", "ab", " ", "\n", "你", "好", "吗", "😀", "👩‍🚀", "é", "𠮷", "stop", "STOP"])
texts = st.lists(alphabet | st.characters(exclude_categories=["Cs"]), max_size=12).map("".join)
parts = st.lists(
    st.tuples(st.sampled_from(["whole", "bytes"]), texts) | st.tuples(st.just("broken"), st.integers(128, 255)),
    max_size=5,
)
stops = st.lists(st.lists(alphabet, min_size=1, max_size=3).map("".join), max_size=3)


def byte_ids(runner: ScriptedRunner, data: bytes) -> list[int]:
    """The ids of byte tokens; `<0x00>` is the first piece after the control ids."""
    first = next(i for i in range(runner.tokenizer.vocab_size) if runner.tokenizer.is_byte(i))
    return [first + byte for byte in data]


def as_ids(runner: ScriptedRunner, parts: list[tuple[str, str | int]]) -> list[int]:
    """The ids of an answer."""
    ids: list[int] = []
    for kind, content in parts:
        if isinstance(content, int):
            ids += byte_ids(runner, bytes([content]))
        elif kind == "bytes":
            ids += byte_ids(runner, content.encode())
        else:
            ids += runner.tokenizer.encode(content)
    return ids


def cut(text: str, stops: list[str]) -> tuple[str, str]:
    """The text before the stop string that ends first, and that stop string; of several, the longest."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            longest = max(ended, key=len)
            return text[: end - len(longest)], longest
    return text, ""


@settings(max_examples=150, deadline=None)
@given(parts=parts, stops=stops, logprobs=st.booleans(), max_tokens=st.integers(1, 60))
@example(parts=[("bytes", "你好😀")], stops=[], logprobs=True, max_tokens=60)
@example(parts=[("bytes", "ab你")], stops=["b你好"], logprobs=False, max_tokens=60)
@example(parts=[("whole", "say stop"), ("bytes", "STOP")], stops=["pS"], logprobs=False, max_tokens=60)
@example(parts=[("broken", 0xE4), ("whole", "a")], stops=["a"], logprobs=False, max_tokens=60)
def test_a_stream_keeps_every_promise(
    scripted_server: ScriptedServer,
    parts: list[tuple[str, str | int]],
    stops: list[str],
    logprobs: bool,
    max_tokens: int,
) -> None:
    ids = as_ids(scripted_server.runner, parts)
    generated = [*ids, 2][:max_tokens]
    text = b"".join(map(scripted_server.runner.tokenizer.token_bytes, generated)).decode(errors="ignore")
    expected, stop = cut(text, stops)
    messages, whole = scripted_server.ask(ids, stop=stops, logprobs=logprobs, max_tokens=max_tokens)

    assert "".join(message.delta for message in messages) == expected == whole.response
    assert [message.HasField("start") for message in messages] == [True] + [False] * (len(messages) - 1)
    assert [message.HasField("finish") for message in messages] == [False] * (len(messages) - 1) + [True]
    assert all(message.ByteSize() for message in messages)
    finish = messages[-1].finish
    assert finish.stop_sequence == stop
    assert int(finish.reason) == expected_reason(stop, ids, max_tokens)
    assert (whole.finish.reason, whole.finish.usage) == (finish.reason, finish.usage)
    entries = [entry for message in messages for entry in message.logprobs]
    assert len(entries) == (finish.usage.completion_tokens if logprobs else 0)
    assert list(whole.logprobs) == entries
    if logprobs:
        assert [entry.token_id for entry in entries] == generated[: len(entries)]
        data = b"".join(entry.token_bytes for entry in entries)
        assert data.decode(errors="ignore").startswith(expected)


def expected_reason(stop: str, ids: list[int], max_tokens: int) -> int:
    if stop:
        return pb.FINISH_REASON_STOP_SEQUENCE
    return pb.FINISH_REASON_STOP if len(ids) < max_tokens else pb.FINISH_REASON_MAX_TOKENS


def test_a_character_comes_with_its_last_byte(scripted_server: ScriptedServer) -> None:
    messages, _ = scripted_server.ask(byte_ids(scripted_server.runner, "好😀".encode()))
    assert [message.delta for message in messages if message.delta] in (["好", "😀"], ["好😀"])


def test_every_control_id_ends_the_answer(scripted_server: ScriptedServer) -> None:
    for control in (0, 2, 3, 4):
        messages, _ = scripted_server.ask(
            [*scripted_server.runner.tokenizer.encode("ab"), control, *scripted_server.runner.tokenizer.encode("cd")]
        )
        assert "".join(message.delta for message in messages) == "ab"
        assert messages[-1].finish.reason == pb.FINISH_REASON_STOP


def test_the_context_ends_the_answer(scripted_server: ScriptedServer) -> None:
    messages, _ = scripted_server.ask(scripted_server.runner.tokenizer.encode("a") * 600, max_tokens=10_000)
    usage = messages[-1].finish.usage
    assert messages[-1].finish.reason == pb.FINISH_REASON_CONTEXT_LENGTH
    assert usage.total_tokens == 512


def test_a_call_that_fails_before_its_first_token_sends_no_headers(
    scripted_server: ScriptedServer, checkpoint: Path
) -> None:
    """A call that fails before its first token sends no headers, so any client may retry it."""
    call = scripted_server.stub.ChatStream(pb.ChatRequest(prompt="x" * 5000))
    with pytest.raises(grpc.RpcError):
        list(call)
    assert not [key for key, _ in call.initial_metadata() if key != "date"]
