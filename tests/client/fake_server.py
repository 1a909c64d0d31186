"""A server that answers by script and misbehaves on request, behind a real socket."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from index_grpc_client.v1 import chat_pb2, chat_pb2_grpc

from .method_recorder import MethodRecorder

Context = grpc.ServicerContext
SERVICE = "index.v1.ChatService"
WORDS = ("Hello", ", ", "世界", "!")
TEXT = "".join(WORDS)
FINGERPRINT = "0.1.0-cpu-fake"
MANY_TIMES = 5
"""Prompts longer than this many contexts are not even counted."""


class Failure(NamedTuple):
    """A status to fail with, and its details."""

    code: grpc.StatusCode
    message: str
    details: tuple[Message, ...] = ()

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        packed = []
        for detail in self.details:
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)

    def abort(self, context: Context) -> None:
        context.set_trailing_metadata(self.trailers())
        context.abort(self.code, self.message)


def bad_request(message: str, reason: str = "INVALID_REQUEST", **violations: str) -> Failure:
    found = [
        error_details_pb2.BadRequest.FieldViolation(field=name.replace("__", "."), description=text)
        for name, text in violations.items()
    ]
    info = error_details_pb2.ErrorInfo(reason=reason, domain="index-grpc")
    details = (info, error_details_pb2.BadRequest(field_violations=found))
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, message, details)


def unknown_model(message: str) -> Failure:
    info = error_details_pb2.ErrorInfo(reason="MODEL_NOT_FOUND", domain="index-grpc")
    return Failure(grpc.StatusCode.NOT_FOUND, message, (info,))


def no_access(reason: str) -> Failure:
    info = error_details_pb2.ErrorInfo(reason=reason, domain="index-grpc")
    return Failure(grpc.StatusCode.UNAUTHENTICATED, "the key is not valid", (info,))


def overloaded(retry_after_s: int = 2) -> Failure:
    info = error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="index-grpc")
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=retry_after_s))
    return Failure(grpc.StatusCode.UNAVAILABLE, "the queue is full", (info, retry))


def rate_limited(retry_after_s: int = 3) -> Failure:
    info = error_details_pb2.ErrorInfo(reason="RATE_LIMITED", domain="index-grpc")
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=retry_after_s))
    return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests", (info, retry))


def too_late() -> Failure:
    info = error_details_pb2.ErrorInfo(reason="DEADLINE_TOO_SHORT", domain="index-grpc")
    return Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline passed before it could begin", (info,))


@dataclass
class Script:
    """What the server does next. Tests write it, and read which requests came."""

    failures: deque[Failure] = field(default_factory=deque)
    """As long as there are any, each call takes one and fails with it."""
    failing: dict[str, list[Failure | None]] = field(default_factory=dict)
    """By prompt: as long as there are any, each answer to the prompt takes one, and fails if it is not None."""
    words: tuple[str, ...] = WORDS
    finish_reason: chat_pb2.FinishReason.ValueType = chat_pb2.FINISH_REASON_STOP
    cut_after: int | None = None
    """Streams end normally, but without a finish, after this many words."""
    fail_after: tuple[int, Failure] | None = None
    """Streams fail after this many words."""
    hold_after: int | None = None
    """Calls send this many words and then wait until the caller leaves."""
    hold_health: bool = False
    """Health checks wait until the caller leaves."""
    context_length: int = 100
    """In tokens; each character of a message is a token."""
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    times_left: list[float] = field(default_factory=list)
    """Seconds that each caller would still wait when its call arrived."""
    holding: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a held call has ended."""


class FakeChat(chat_pb2_grpc.ChatServiceServicer):
    """Follows the script."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def Chat(self, request: chat_pb2.ChatRequest, context: Context) -> chat_pb2.ChatResponse:
        self._arrive(request, context)
        self._refuse_long(request, context)
        if self.script.hold_after is not None:
            self._hold(context)
        said = [
            chat_pb2.Message(role=chat_pb2.ROLE_USER, content=request.prompt),
            chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, content="".join(self.script.words)),
        ]
        start = self._start(request)
        return chat_pb2.ChatResponse(
            id=start.id,
            response=said[1].content,
            history=[*request.history, *said],
            finish=self._finish(request),
            model=start.model,
            seed=start.seed,
            create_time=start.create_time,
            fingerprint=start.fingerprint,
            logprobs=self._logprobs(request, *self.script.words),
        )

    def ChatStream(self, request: chat_pb2.ChatRequest, context: Context) -> Iterator[chat_pb2.ChatStreamResponse]:
        self._arrive(request, context)
        self._refuse_long(request, context)
        script = self.script
        for index, word in enumerate((*script.words, "")):
            if index == script.cut_after:
                return
            if script.fail_after and index == script.fail_after[0]:
                script.fail_after[1].abort(context)
            if index == script.hold_after:
                self._hold(context)
            response = chat_pb2.ChatStreamResponse(delta=word, logprobs=self._logprobs(request, word) if word else ())
            if index == 0:
                response.start.CopyFrom(self._start(request))
            if index == len(script.words):
                response.finish.CopyFrom(self._finish(request))
            yield response

    def CountTokens(self, request: chat_pb2.CountTokensRequest, context: Context) -> chat_pb2.CountTokensResponse:
        self._arrive(request, context)
        self._refuse_long(request, context, times=MANY_TIMES)
        tokens = self._tokens(request)
        remaining = max(0, self.script.context_length - tokens)
        return chat_pb2.CountTokensResponse(prompt_tokens=tokens, remaining_tokens=remaining)

    def GetModel(self, request: chat_pb2.GetModelRequest, context: Context) -> chat_pb2.GetModelResponse:
        self._arrive(request, context)
        sampling = chat_pb2.SamplingParams(temperature=0.95, top_p=0.7, top_k=5, min_p=0, repetition_penalty=1.1)
        return chat_pb2.GetModelResponse(
            model="demo",
            context_length=self.script.context_length,
            default_sampling=sampling,
            default_max_tokens=20,
            device="cpu",
            dtype="float32",
            server_version="0.1.0",
            num_parameters=1000,
            vocab_size=300,
            max_sequences=4,
            max_waiting=8,
            max_waiting_tokens=9000,
            fingerprint=FINGERPRINT,
            max_message_bytes=1000,
        )

    def _arrive(self, request: Message, context: Context) -> None:
        self.script.requests.append(request)
        self.script.metadata.append(dict(context.invocation_metadata()))
        self.script.times_left.append(context.time_remaining())
        is_held = self.script.hold_after is not None and isinstance(request, chat_pb2.ChatRequest)
        if is_held and not context.add_callback(self.script.left.set):
            self.script.left.set()
        if self.script.failures:
            self.script.failures.popleft().abort(context)
        failing = self.script.failing.get(request.prompt) if isinstance(request, chat_pb2.ChatRequest) else None
        if failing and (failure := failing.pop(0)):
            failure.abort(context)

    def _hold(self, context: Context) -> None:
        self.script.holding.set()
        self.script.left.wait(60)
        context.abort(grpc.StatusCode.CANCELLED, "the caller left")

    def _refuse_long(
        self, request: chat_pb2.ChatRequest | chat_pb2.CountTokensRequest, context: Context, times: int = 1
    ) -> None:
        tokens, limit = self._tokens(request), self.script.context_length
        if tokens > limit * times:
            why = f"{tokens} tokens, but the context holds {limit}"
            bad_request("prompt too long", "PROMPT_TOO_LONG", prompt=why).abort(context)

    @staticmethod
    def _tokens(request: chat_pb2.ChatRequest | chat_pb2.CountTokensRequest) -> int:
        return sum(len(message.content) for message in request.history) + len(request.prompt)

    def _start(self, request: chat_pb2.ChatRequest) -> chat_pb2.Start:
        request_id = str(self.script.metadata[-1].get("x-request-id", "made-by-server"))
        seed = request.sampling.seed if request.sampling.HasField("seed") else 7
        when = Timestamp(seconds=1_700_000_000)
        start = chat_pb2.Start(id=request_id, model="demo", seed=seed, create_time=when, fingerprint=FINGERPRINT)
        start.prompt_tokens = self._tokens(request)
        return start

    def _finish(self, request: chat_pb2.ChatRequest) -> chat_pb2.Finish:
        prompt, completion = self._tokens(request), len(self.script.words) + 1
        usage = chat_pb2.Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
        timing = chat_pb2.Timing(
            queue=Duration(nanos=1_000_000), time_to_first_token=Duration(nanos=2_000_000), total=Duration(seconds=1)
        )
        return chat_pb2.Finish(reason=self.script.finish_reason, usage=usage, timing=timing)

    @staticmethod
    def _logprobs(request: chat_pb2.ChatRequest, *words: str) -> list[chat_pb2.TokenLogprob]:
        if not request.logprobs:
            return []
        top = [chat_pb2.TokenLogprob(token_id=1, token_bytes=b"top", logprob=-0.25)] * request.top_logprobs
        return [
            chat_pb2.TokenLogprob(token_id=index, token_bytes=word.encode(), logprob=-0.5, top=top)
            for index, word in enumerate(words)
        ]


class FakeHealth(HealthServicer):
    """The standard health service, which also fails as the script says."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        self.script.requests.append(request)
        if self.script.failures:
            self.script.failures.popleft().abort(context)
        if self.script.hold_health:
            context.add_callback(self.script.left.set)
            self.script.holding.set()
            self.script.left.wait(60)
        return super().Check(request, context)


class FakeServer:
    """A server on the loopback that follows the script, with the standard health service."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0") -> None:
        self.script = Script()
        self.health = FakeHealth(self.script)
        self.serve()
        recorder = MethodRecorder()
        self.methods = recorder.methods
        self._server = grpc.server(ThreadPoolExecutor(32), interceptors=[recorder])
        chat_pb2_grpc.add_ChatServiceServicer_to_server(FakeChat(self.script), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = address.replace(":0", f":{port}")
        self._server.start()

    def serve(self, serving: bool = True) -> None:
        """Sets the health of the server and its service."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        self.health.set("", status)
        self.health.set(SERVICE, status)

    def stop(self) -> None:
        """Ends all calls and frees the port."""
        stopped = self._server.stop(None)
        self.script.left.set()
        stopped.wait()
