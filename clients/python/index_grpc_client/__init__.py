"""Chat with an Index model on an index-grpc server.

`Client` and `AsyncClient` call the server; `Conversation` and `AsyncConversation` keep the history of a chat. The
generated messages and stubs are in `index_grpc_client.v1`.
"""

from index_grpc_client.aio_client import AsyncClient
from index_grpc_client.aio_stream import AsyncChatStream
from index_grpc_client.channel import DEFAULT_ADDRESS
from index_grpc_client.client import Client
from index_grpc_client.conversation import AsyncConversation, Conversation
from index_grpc_client.credentials import tls_credentials
from index_grpc_client.errors import (
    CallCancelledError,
    DeadlineError,
    IncompleteAnswerError,
    IndexGrpcError,
    InternalError,
    InvalidRequestError,
    LimitExceededError,
    ModelNotFoundError,
    PromptTooLongError,
    UnauthenticatedError,
    UnavailableError,
)
from index_grpc_client.message import Message, Role, assistant, system, user
from index_grpc_client.model import ModelInfo, Sampling, TokenCount
from index_grpc_client.options import AskOptions, CallOptions, ChatOptions, CountOptions
from index_grpc_client.result import (
    ChatResult,
    Chunk,
    Finish,
    FinishReason,
    HealthStatus,
    Start,
    Timing,
    TokenLogprob,
    Usage,
)
from index_grpc_client.status import Violation
from index_grpc_client.stream import ChatStream
from index_grpc_client.version import __version__

__all__ = [
    "DEFAULT_ADDRESS",
    "AskOptions",
    "AsyncChatStream",
    "AsyncClient",
    "AsyncConversation",
    "CallCancelledError",
    "CallOptions",
    "ChatOptions",
    "ChatResult",
    "ChatStream",
    "Chunk",
    "Client",
    "Conversation",
    "CountOptions",
    "DeadlineError",
    "Finish",
    "FinishReason",
    "HealthStatus",
    "IncompleteAnswerError",
    "IndexGrpcError",
    "InternalError",
    "InvalidRequestError",
    "LimitExceededError",
    "Message",
    "ModelInfo",
    "ModelNotFoundError",
    "PromptTooLongError",
    "Role",
    "Sampling",
    "Start",
    "Timing",
    "TokenCount",
    "TokenLogprob",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
    "Violation",
    "__version__",
    "assistant",
    "system",
    "tls_credentials",
    "user",
]
