"""Translates protobuf messages to the types of `datatypes.py` and back. The code that answers uses no protobuf."""

import secrets
from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc import __version__
from index_grpc.datatypes import (
    DEFAULT_MAX_TOKENS,
    ChatRequest,
    Chunk,
    Deadline,
    Finish,
    FinishReason,
    Message,
    Role,
    SamplingParams,
    ServedModel,
    Start,
    TokenLogprob,
)
from index_grpc.engine.limits import Limits
from index_grpc.errors import ModelNotFound
from index_grpc.server.call import Call
from index_grpc.server.status import quoted
from index_grpc.server.validate import Violations

ROLES = {pb.ROLE_SYSTEM: Role.SYSTEM, pb.ROLE_USER: Role.USER, pb.ROLE_ASSISTANT: Role.ASSISTANT}
ROLE_NUMBERS = {role: number for number, role in ROLES.items()}
REASONS = {reason: pb.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason}


def chat_request(proto: pb.ChatRequest, call: Call, model: ServedModel) -> ChatRequest:
    """Returns the validated request. Raises InvalidRequest with all violations, or ModelNotFound."""
    prompt = proto.prompt  # read once: each access decodes it again, which is slow for megabytes
    with Violations() as violations:
        violations.of_conversation(prompt, proto.history)
        violations.of_sampling(proto.sampling)
        violations.of_limits(proto)
    _refuse_other_model(proto.model, model)
    return ChatRequest(
        id=call.id,
        prompt=prompt,
        history=_history(proto.history),
        sampling=_sampling(proto.sampling),
        max_tokens=proto.max_tokens if proto.HasField("max_tokens") else DEFAULT_MAX_TOKENS,
        stop=tuple(dict.fromkeys(proto.stop)),
        logprobs=proto.logprobs,
        top_logprobs=proto.top_logprobs,
        arrival=call.arrival,
        deadline=_deadline(proto, call),
    )


def messages_to_count(proto: pb.CountTokensRequest, model: ServedModel) -> Sequence[Message]:
    """Returns the validated conversation. Raises InvalidRequest with all violations, or ModelNotFound."""
    prompt = proto.prompt
    with Violations() as violations:
        violations.of_conversation(prompt, proto.history)
    _refuse_other_model(proto.model, model)
    return (*_history(proto.history), Message(Role.USER, prompt))


def count_response(num_prompt: int, model: ServedModel) -> pb.CountTokensResponse:
    """Returns how many tokens a prompt has, and how many are left for its answer."""
    remaining = max(0, model.context_length - num_prompt)
    return pb.CountTokensResponse(prompt_tokens=num_prompt, remaining_tokens=remaining)


async def chat_response(
    chunks: AsyncIterable[Chunk], request: ChatRequest, call: Call, model: ServedModel
) -> pb.ChatResponse:
    """Returns all chunks as one answer. Adds each as it comes: all log-probabilities at once would delay others."""
    proto = pb.ChatResponse(id=call.id, model=model.name, seed=request.sampling.seed, fingerprint=model.fingerprint)
    deltas = []
    async for chunk in chunks:
        deltas.append(chunk.delta)
        _fill_logprobs(proto.logprobs, chunk.logprobs)
        if chunk.finish is not None:
            _fill_finish(proto.finish, chunk.finish)
    proto.response = "".join(deltas)
    for message in (*request.messages, Message(Role.ASSISTANT, proto.response)):
        proto.history.add(role=ROLE_NUMBERS[message.role], content=message.content)
    proto.create_time.FromMicroseconds(_microseconds(call.created))
    return proto


def chat_stream_response(chunk: Chunk, call: Call, model: ServedModel) -> pb.ChatStreamResponse:
    """Returns a chunk as a message of the stream."""
    # Its fields are filled in place, since a message made before would be copied.
    proto = pb.ChatStreamResponse(delta=chunk.delta)
    _fill_logprobs(proto.logprobs, chunk.logprobs)
    if chunk.start is not None:
        _fill_start(proto.start, chunk.start, call, model)
    if chunk.finish is not None:
        _fill_finish(proto.finish, chunk.finish)
    return proto


def model_response(model: ServedModel, limits: Limits, max_message_bytes: int) -> pb.GetModelResponse:
    """Returns the served model with its limits and defaults."""
    defaults = asdict(SamplingParams())
    del defaults["seed"]  # it has no default: each call gets its own seed
    return pb.GetModelResponse(
        model=model.name,
        context_length=model.context_length,
        default_sampling=pb.SamplingParams(**defaults),
        default_max_tokens=DEFAULT_MAX_TOKENS,
        device=model.device,
        dtype=model.dtype,
        server_version=__version__,
        num_parameters=model.num_parameters,
        vocab_size=model.vocab_size,
        max_sequences=limits.max_sequences,
        max_waiting=limits.max_waiting,
        quantization=model.quantization,
        kv_cache_tokens=limits.max_cache_tokens,
        max_waiting_tokens=limits.max_waiting_tokens,
        fingerprint=model.fingerprint,
        max_message_bytes=max_message_bytes,
    )


def _refuse_other_model(name: str, model: ServedModel) -> None:
    """Raises ModelNotFound if a request names another model; an empty name stands for any."""
    if name and name != model.name:
        remedy = f"this server serves only {model.name!r}; send that name or leave model unset"
        raise ModelNotFound(f"model is {quoted(name)}; {remedy}", served_model=model.name)


def _history(history: Iterable[pb.Message]) -> tuple[Message, ...]:
    return tuple(Message(ROLES[message.role], message.content) for message in history)


def _sampling(proto: pb.SamplingParams) -> SamplingParams:
    given = {descriptor.name: value for descriptor, value in proto.ListFields()}
    return SamplingParams(**given) if "seed" in given else SamplingParams(**given, seed=secrets.randbits(32))


def _deadline(proto: pb.ChatRequest, call: Call) -> Deadline | None:
    """Returns the earlier one of the call's own deadline and the request's time limit."""
    deadlines = []
    if call.deadline is not None and call.allowed_seconds is not None:
        deadlines.append(Deadline(call.deadline, call.allowed_seconds, "deadline"))
    if proto.HasField("time_limit"):
        seconds = proto.time_limit.seconds + proto.time_limit.nanos / 1e9
        deadlines.append(Deadline(call.arrival + seconds, seconds, "time_limit"))
    return min(deadlines, default=None)


def _fill_start(proto: pb.Start, start: Start, call: Call, model: ServedModel) -> None:
    proto.id, proto.model, proto.fingerprint = call.id, model.name, model.fingerprint
    proto.seed, proto.prompt_tokens = start.seed, start.prompt_tokens
    proto.create_time.FromMicroseconds(_microseconds(call.created))


def _fill_finish(proto: pb.Finish, finish: Finish) -> None:
    proto.reason, proto.stop_sequence = REASONS[finish.reason], finish.stop_sequence
    usage, timing = proto.usage, proto.timing
    usage.prompt_tokens, usage.completion_tokens = finish.prompt_tokens, finish.completion_tokens
    usage.total_tokens = finish.prompt_tokens + finish.completion_tokens
    usage.cached_prompt_tokens = finish.cached_prompt_tokens
    timing.queue.FromMicroseconds(_microseconds(finish.timing.queue))
    timing.time_to_first_token.FromMicroseconds(_microseconds(finish.timing.time_to_first_token))
    timing.total.FromMicroseconds(_microseconds(finish.timing.total))


def _fill_logprobs(protos: Any, entries: Iterable[TokenLogprob]) -> None:  # noqa: ANN401 - of protobuf's own
    for entry in entries:
        proto = protos.add(token_id=entry.token_id, token_bytes=entry.token_bytes, logprob=entry.logprob)
        _fill_logprobs(proto.top, entry.top)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
