"""Turns chunks of an answer into OpenAI's objects."""

from collections.abc import AsyncIterable, Iterable, Sequence
from typing import Any

from pydantic_core import to_json

from index_grpc.datatypes import Chunk, Finish, FinishReason, ServedModel, TokenLogprob
from index_grpc.server.call import Call

REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.MAX_TOKENS: "length",
    FinishReason.CONTEXT_LENGTH: "length",
    FinishReason.TIME_LIMIT: "length",
}
LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON lacks; OpenAI sends the same number."""

DONE = b"[DONE]"

Object = dict[str, Any]


class Completion:
    """Makes the JSON of one call's answer."""

    def __init__(self, call: Call, model: ServedModel, *, tells_usage: bool) -> None:
        self._tells_usage = tells_usage
        self._head: Object = {
            "id": call.id,
            "created": int(call.created),
            "model": model.name,
            "system_fingerprint": model.fingerprint,
        }

    async def whole(self, chunks: AsyncIterable[Chunk]) -> Object:
        """Returns all chunks as one object. Adds each as it comes: all log-probabilities at once would delay others."""
        deltas, logprobs, finish = [], [], None
        async for chunk in chunks:
            deltas.append(chunk.delta)
            logprobs += _entries(chunk.logprobs)
            finish = chunk.finish
        assert finish is not None
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(deltas), "refusal": None},
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": REASONS[finish.reason],
        }
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage(finish)}

    def events(self, chunk: Chunk) -> list[bytes]:
        """Returns a chunk as events. The finish reason has an event of its own: some clients read no text beside it."""
        events = []
        if chunk.start or chunk.delta or chunk.logprobs:
            role = {"role": "assistant"} if chunk.start else {}
            events.append(self._event({**role, "content": chunk.delta}, chunk.logprobs, None))
        if chunk.finish is not None:
            events.append(self._event({}, (), REASONS[chunk.finish.reason]))
            if self._tells_usage:
                events.append(self._chunk([], usage(chunk.finish)))
            events.append(DONE)
        return events

    def _event(self, delta: Object, logprobs: Sequence[TokenLogprob], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": reason}
        return self._chunk([choice], None)

    def _chunk(self, choices: list[Object], used: Object | None) -> bytes:
        usage = {"usage": used} if self._tells_usage else {}
        return to_json({**self._head, "object": "chat.completion.chunk", "choices": choices, **usage})


def usage(finish: Finish) -> Object:
    """Returns the numbers of tokens."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_prompt_tokens},
    }


def _logprobs(entries: Sequence[TokenLogprob]) -> Object | None:
    return {"content": _entries(entries)} if entries else None


def _entries(entries: Iterable[TokenLogprob]) -> list[Object]:
    return [_logprob(entry) | {"top_logprobs": _tops(entry.top)} for entry in entries]


def _tops(entries: Iterable[TokenLogprob]) -> list[Object]:
    return [_logprob(entry) for entry in entries]


def _logprob(entry: TokenLogprob) -> Object:
    return {
        "token": entry.token_bytes.decode(errors="replace"),
        "bytes": list(entry.token_bytes),
        "logprob": max(entry.logprob, LEAST_LOGPROB),
    }
