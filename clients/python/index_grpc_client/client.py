"""The synchronous client."""

from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1 import health_pb2_grpc

from index_grpc_client.channel import DEFAULT_ADDRESS, ChannelOptions, ChannelSettings
from index_grpc_client.errors import IndexGrpcError, translated
from index_grpc_client.model import ModelInfo, TokenCount
from index_grpc_client.options import CallOptions, ChatOptions, CountOptions
from index_grpc_client.request import CallBuilder
from index_grpc_client.result import ChatResult, HealthStatus
from index_grpc_client.stream import ChatStream
from index_grpc_client.v1 import chat_pb2_grpc


def open_channel(settings: ChannelSettings) -> grpc.Channel:
    """Returns a channel that connects at its first call."""
    credentials, options = settings.channel_credentials(), settings.channel_options()
    if credentials is None:
        return grpc.insecure_channel(settings.target(), options)
    return grpc.secure_channel(settings.target(), credentials, options)


class Client:
    """Calls an index-grpc server. A context manager; safe to share between threads.

    A call that finds the server unavailable is retried, up to five attempts in all, as long as no answer has begun.
    Failed calls raise IndexGrpcError; calls of a closed client, ValueError. The generated stub, for what the methods
    leave out, is at `stub`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        tls: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        channel_options: ChannelOptions | None = None,
        channel: grpc.Channel | None = None,
    ) -> None:
        """Prepares the connection, which is made at the first call.

        Args:
            address: `host:port`, all of whose addresses are used in turn, or what else gRPC dials (`unix:/path`).
            tls: Whether to encrypt, trusting the system's certificate authorities.
            credentials: Encrypts as these say, in the place of `tls`.
            api_key: Sent with each call as a bearer token; in the clear, unless the channel is encrypted.
            timeout: Seconds for a call, retries included, unless the call has its own; `math.inf` waits for ever.
                For calls that generate nothing at most 30 seconds.
            channel_options: gRPC channel arguments, each in the place of the default of its name.
            channel: Used as it is, in the place of all that is said above on connecting; closing it is the caller's.
        """
        self._build = CallBuilder(timeout, api_key)
        self._opened = None
        if channel is None:
            channel = self._opened = open_channel(ChannelSettings(address, tls, credentials, channel_options))
        self.stub = chat_pb2_grpc.ChatServiceStub(channel)
        self._health_stub = health_pb2_grpc.HealthStub(channel)

    @property
    def timeout(self) -> float:
        """Seconds for a call that has no timeout of its own, retries included."""
        return self._build.timeout

    def chat(self, prompt: str, **options: Unpack[ChatOptions]) -> ChatResult:
        """Answers a prompt; `options` are those of ChatOptions."""
        call = self._build.chat(prompt, **options)
        with translated(call):
            response = self.stub.Chat(call.request, timeout=call.timeout, metadata=call.metadata)
        return ChatResult.from_wire(response)

    def chat_stream(self, prompt: str, **options: Unpack[ChatOptions]) -> ChatStream:
        """Answers a prompt as the model generates the answer; `options` are those of ChatOptions."""
        return ChatStream(self._build.chat(prompt, **options), self.stub.ChatStream)

    def count_tokens(self, prompt: str, **options: Unpack[CountOptions]) -> TokenCount:
        """Counts the tokens of a prompt with its history, laid out as the model sees them."""
        call = self._build.count_tokens(prompt, **options)
        with translated(call):
            response = self.stub.CountTokens(call.request, timeout=call.timeout, metadata=call.metadata)
        return TokenCount.from_wire(response)

    def model(self, **options: Unpack[CallOptions]) -> ModelInfo:
        """Describes the served model, its limits and the defaults of unset options."""
        call = self._build.model(**options)
        with translated(call):
            response = self.stub.GetModel(call.request, timeout=call.timeout, metadata=call.metadata)
        return ModelInfo.from_wire(response)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> HealthStatus:
        """Asks how the server is, or one service of it."""
        call = self._build.health(service, **options)
        try:
            with translated(call):
                response = self._health_stub.Check(call.request, timeout=call.timeout, metadata=call.metadata)
        except IndexGrpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return HealthStatus.SERVICE_UNKNOWN
        return HealthStatus.from_wire(response)

    def close(self) -> None:
        """Closes the connection and cancels what runs on it; a channel that was given stays open."""
        if self._opened is not None:
            self._build.close()
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
