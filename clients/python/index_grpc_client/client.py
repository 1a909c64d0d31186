"""The synchronous client."""

import time
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from index_grpc_client.channel import DEFAULT_ADDRESS, ChannelOptions, ChannelSettings
from index_grpc_client.errors import IndexGrpcError
from index_grpc_client.model import ModelInfo, TokenCount
from index_grpc_client.options import CallOptions, ChatOptions, CountOptions, Metadata
from index_grpc_client.readiness import Wait
from index_grpc_client.request import Call, CallBuilder
from index_grpc_client.result import ChatResult, HealthStatus
from index_grpc_client.stream import ChatStream
from index_grpc_client.translation import translated
from index_grpc_client.v1 import chat_pb2_grpc


def open_channel(settings: ChannelSettings) -> grpc.Channel:
    """Returns a channel that connects at its first call."""
    credentials, options = settings.channel_credentials(), settings.channel_options()
    if credentials is None:
        return grpc.insecure_channel(settings.target(), options)
    return grpc.secure_channel(settings.target(), credentials, options)


class Client:
    """Calls an index-grpc server. A context manager; threads may share it.

    A call that finds the server unavailable is tried up to five times, as long as no answer has begun. A call that
    fails raises IndexGrpcError; a call of a closed client raises ValueError. `stub` is the generated stub, for
    everything that the methods do not offer.
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
            address: `host:port`, or another address that gRPC understands (`unix:/path`). If the host has several
                addresses, they are used in turn.
            tls: Whether to encrypt, trusting the system's certificate authorities.
            credentials: How to encrypt; used instead of `tls`.
            api_key: Sent with each call as a bearer token. It is readable on the way unless the channel is encrypted.
            timeout: Seconds for a call, retries included, unless the call has its own timeout. `math.inf` waits for
                ever. Calls that generate nothing wait at most 30 seconds by default.
            channel_options: gRPC channel arguments. Each replaces the default of the same name.
            channel: A channel to use as it is. Then `address`, `tls`, `credentials` and `channel_options` are ignored,
                and the caller closes the channel.

        Raises:
            ValueError: the address, the timeout or the key is invalid.
            TypeError: one of them has a wrong type.
        """
        self._build = CallBuilder(timeout, api_key)
        self._opened, self._place = None, "the server"
        if channel is None:
            channel = self._opened = open_channel(ChannelSettings(address, tls, credentials, channel_options))
            self._place = address
        self._channel = channel
        self.stub = chat_pb2_grpc.ChatServiceStub(channel)
        self._health_stub = health_pb2_grpc.HealthStub(channel)

    @property
    def timeout(self) -> float:
        """The timeout, in seconds and with retries, of calls that have none of their own."""
        return self._build.timeout

    def chat(self, prompt: str, **options: Unpack[ChatOptions]) -> ChatResult:
        """Returns the whole answer to a prompt; `options` are those of ChatOptions."""
        call = self._build.chat(prompt, **options)
        with translated(self._channel, call):
            response = self.stub.Chat(call.request, timeout=call.timeout, metadata=call.metadata)
        return ChatResult.from_wire(response)

    def chat_stream(self, prompt: str, **options: Unpack[ChatOptions]) -> ChatStream:
        """Returns the answer to a prompt as a stream of chunks; `options` are those of ChatOptions."""
        return ChatStream(self._build.chat(prompt, **options), self.stub.ChatStream, self._channel)

    def count_tokens(self, prompt: str, **options: Unpack[CountOptions]) -> TokenCount:
        """Counts the tokens of a prompt with its history, control tokens included."""
        call = self._build.count_tokens(prompt, **options)
        with translated(self._channel, call):
            response = self.stub.CountTokens(call.request, timeout=call.timeout, metadata=call.metadata)
        return TokenCount.from_wire(response)

    def model(self, **options: Unpack[CallOptions]) -> ModelInfo:
        """Returns the served model, its limits and the defaults of unset options."""
        call = self._build.model(**options)
        with translated(self._channel, call):
            response = self.stub.GetModel(call.request, timeout=call.timeout, metadata=call.metadata)
        return ModelInfo.from_wire(response)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> HealthStatus:
        """Returns the health of the server or, if `service` is given, of that service."""
        call = self._build.health(service, **options)
        try:
            with translated(self._channel, call):
                response = self._health_stub.Check(call.request, timeout=call.timeout, metadata=call.metadata)
        except IndexGrpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return HealthStatus.SERVICE_UNKNOWN
        return HealthStatus.from_wire(response)

    def wait_until_ready(self, timeout: float, service: str = "", *, metadata: Metadata | None = None) -> None:
        """Returns once the server, or the service if it is given, is SERVING; until then it asks again and again.

        It waits while the server cannot be reached, loads or is NOT_SERVING. Of several servers one must be ready. A
        port that opens is noticed after about 5 s or sooner.

        Args:
            timeout: Seconds to wait, instead of the client's timeout; `math.inf` waits for ever. It may take a second
                more to find out why there is no connection.
            service: The service to wait for.
            metadata: More gRPC metadata to send, with keys in lower case.

        Raises:
            DeadlineError: the timeout passed. The message says what was last seen.
            IndexGrpcError: waiting is of no use: the key is refused, encryption is set wrongly, the port is one for
                HTTP, the service is unknown, or the server failed.
            ValueError: an argument is invalid, or the client is closed.
        """
        wait = Wait(timeout, self._place)
        while True:
            call = self._build.health(service, timeout=wait.next_check(), metadata=metadata)
            try:
                with translated(self._channel, call):
                    status = self._check(call)
                if wait.is_over(status):
                    return
            except IndexGrpcError as error:
                if self._build.is_closed or not wait.goes_on_after(error):
                    raise
            time.sleep(wait.next_pause())

    def _check(self, call: Call[health_pb2.HealthCheckRequest]) -> HealthStatus:
        """Returns the health once there is a connection. Ctrl-C ends the call."""
        check = self._health_stub.Check.future(
            call.request, timeout=call.timeout, metadata=call.metadata, wait_for_ready=True
        )
        try:
            return HealthStatus.from_wire(check.result())
        finally:
            check.cancel()

    def close(self) -> None:
        """Closes the connection and cancels its calls. Does nothing if the client was given its channel."""
        if self._opened is not None:
            self._build.close()
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
