"""The result of loading a model, and how it is loaded while the server already listens."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from index_grpc.chat import Chat
from index_grpc.datatypes import ChatRequest, SamplingParams, ServedModel
from index_grpc.engine.limits import Limits
from index_grpc.engine.worker import Worker
from index_grpc.errors import IndexGrpcError, StartupError
from index_grpc.text.tokenizer import Tokenizer

LOADING_THREAD = "load"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of loading a model."""

    model: ServedModel
    tokenizer: Tokenizer
    limits: Limits
    worker: Worker


Load = Callable[[], Loaded]


async def in_daemon_thread(load: Load) -> Loaded:
    """Loads like `asyncio.to_thread`, but does not delay the process's end: a download may take an hour."""
    events = asyncio.get_running_loop()
    result: asyncio.Future[Loaded] = events.create_future()

    def settle(set_result: Callable[[Any], None], value: object) -> None:
        if not result.cancelled():
            set_result(value)

    def deliver(set_result: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed: the server was stopped while it loaded
            events.call_soon_threadsafe(settle, set_result, value)

    def work() -> None:
        try:
            loaded = load()
        except Exception as error:
            deliver(result.set_exception, error)
        else:
            deliver(result.set_result, loaded)

    threading.Thread(target=work, name=LOADING_THREAD, daemon=True).start()
    return await result


async def warm_up(chat: Chat) -> None:
    """Has the model answer a trial prompt. Raises StartupError if it cannot."""
    arrival = time.monotonic()
    request = ChatRequest("warm-up", "Hello", sampling=SamplingParams(seed=1), max_tokens=4, arrival=arrival)
    try:
        with await chat.answer(request) as chunks:
            async for _ in chunks:
                pass
    except IndexGrpcError as error:
        raise StartupError(f"the model cannot answer a trial prompt ({error}); is the checkpoint damaged?") from error
