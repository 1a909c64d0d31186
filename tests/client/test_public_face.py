"""The public names of the package, and the packages that it needs."""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import metadata, resources
from pathlib import Path

import grpc
import index_grpc_client
import pytest
from index_grpc_client import (
    AsyncChatStream,
    AsyncClient,
    AsyncConversation,
    ChatStream,
    Client,
    Conversation,
)

PACKAGE = Path(index_grpc_client.__file__).parent
ALLOWED = {"google", "grpc", "grpc_health", "index_grpc_client"}
ALLOWED_IN_CLI = ALLOWED | {"click", "prompt_toolkit"}
NAMES = """
    AskOptions AsyncChatStream AsyncClient AsyncConversation CallCancelledError CallOptions ChatOptions ChatResult
    ChatStream Chunk Client Conversation CountOptions DEFAULT_ADDRESS DeadlineError Finish FinishReason HealthStatus
    IncompleteAnswerError IndexGrpcError InternalError InvalidRequestError LimitExceededError Message ModelInfo
    ModelNotFoundError PromptTooLongError Role Sampling Start Timing TokenCount TokenLogprob UnauthenticatedError
    UnavailableError Usage Violation __version__ assistant system tls_credentials user
"""


def test_the_public_names() -> None:
    assert sorted(index_grpc_client.__all__) == sorted(NAMES.split())
    for name in index_grpc_client.__all__:
        assert hasattr(index_grpc_client, name), name


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    allowed = ALLOWED_IN_CLI if path.parent.name == "cli" else ALLOWED
    assert set(imported(path)) - sys.stdlib_module_names <= allowed


def parameters(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    """Returns names, defaults and types; asyncio's types get the names of the synchronous ones."""
    found = inspect.signature(function, eval_str=False).parameters.values()
    alike = {AsyncClient: Client, grpc.aio.Channel | None: grpc.Channel | None}
    return [(each.name, each.default, alike.get(each.annotation, each.annotation)) for each in found]


def public_methods(kind: type) -> dict[str, object]:
    members = {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}
    return {name: inspect.isfunction(member) and parameters(member) for name, member in members.items()}


TWINS = [(Client, AsyncClient), (ChatStream, AsyncChatStream), (Conversation, AsyncConversation)]


@pytest.mark.parametrize(("sync", "asyncio"), TWINS)
def test_sync_and_asyncio_have_the_same_methods(sync: type, asyncio: type) -> None:
    assert public_methods(sync) == public_methods(asyncio)


@pytest.mark.parametrize(("sync", "asyncio"), [(Client, AsyncClient), (Conversation, AsyncConversation)])
def test_sync_and_asyncio_are_made_alike(sync: type, asyncio: type) -> None:
    assert parameters(sync) == parameters(asyncio)


def test_public_things_are_documented() -> None:
    for name in index_grpc_client.__all__:
        value = getattr(index_grpc_client, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    for kind in (Client, AsyncClient, ChatStream, AsyncChatStream, Conversation, AsyncConversation):
        for name, member in inspect.getmembers(kind):
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{kind.__name__}.{name}"


def test_what_is_shipped() -> None:
    files = resources.files("index_grpc_client")
    for name in ("py.typed", "protos/index/v1/chat.proto", "v1/chat_pb2.pyi"):
        assert (files / name).is_file(), name
    assert metadata.version("index-grpc-client") == index_grpc_client.__version__
