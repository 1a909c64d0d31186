"""Conversations: clients that remember what was said."""

import time
from collections.abc import AsyncGenerator, Generator, Iterable
from typing import TypeAlias, Unpack

from index_grpc_client.aio_client import AsyncClient
from index_grpc_client.client import Client
from index_grpc_client.errors import InvalidRequestError
from index_grpc_client.limits import allowed_timeout
from index_grpc_client.message import AnyMessage, Message, Role, messages
from index_grpc_client.message import system as system_message
from index_grpc_client.model import ModelInfo
from index_grpc_client.options import AskOptions, CallOptions
from index_grpc_client.request import QUICK_TIMEOUT
from index_grpc_client.result import ChatResult, Chunk

SHORTEST_TIMEOUT_S = 0.001

Trimming: TypeAlias = Generator[tuple[Message, ...], int, tuple[Message, ...]]
"""Yields histories, is sent how many tokens remain after each with the prompt, and returns the one to use."""


def remaining_if_too_long(error: InvalidRequestError) -> int:
    """Returns that no token remains if the prompt was too long even to be counted; raises other errors on."""
    if error.reason != "PROMPT_TOO_LONG":
        raise error
    return 0


class _TurnOptions:
    """The options of a turn, whose timeout all of its calls share."""

    def __init__(self, options: AskOptions) -> None:
        """Raises ValueError for an invalid timeout."""
        timeout = options.get("timeout")
        self._options, self.max_tokens = options, options.get("max_tokens")
        self._ends_at = None if timeout is None else time.monotonic() + allowed_timeout(timeout)

    def to_look(self) -> CallOptions:
        """Returns those of a call that asks after the model or counts."""
        left, options = self._seconds_left(), self._options
        timeout = None if left is None else min(left, QUICK_TIMEOUT)
        return CallOptions(timeout=timeout, request_id=options.get("request_id"), metadata=options.get("metadata"))

    def to_answer(self) -> AskOptions:
        """Returns those of the call that answers."""
        return {**self._options, "timeout": self._seconds_left()}

    def _seconds_left(self) -> float | None:
        """Returns more than 0 always: a call with next to no time fails as any that takes too long."""
        return None if self._ends_at is None else max(self._ends_at - time.monotonic(), SHORTEST_TIMEOUT_S)


class _Memory:
    """What a conversation remembers: finished turns only. One that failed or was left early is forgotten."""

    def __init__(self, system: str | None, history: Iterable[AnyMessage], trim: bool) -> None:
        self.system = system
        """The instructions for the whole conversation; may be changed between turns."""
        self.trim = trim
        self.last: ChatResult | None = None
        """The latest answer with all that is known of it."""
        self._turns = messages(history)
        self._model: ModelInfo | None = None
        if self._turns and self._turns[0].role is Role.SYSTEM:
            if system is not None:
                raise ValueError("system is given, and the history begins with a system message: leave one of them out")
            self.system, self._turns = self._turns[0].content, self._turns[1:]

    @property
    def history(self) -> tuple[Message, ...]:
        """The conversation so far, oldest message first, beginning with the instructions if there are any."""
        return self._with_system(self._turns)

    def clear(self) -> None:
        """Forgets all but the instructions."""
        self._turns, self.last = (), None

    def undo(self) -> str | None:
        """Forgets the last prompt and what came after it; returns the prompt, or None if there was none."""
        for place in reversed(range(len(self._turns))):
            if self._turns[place].role is Role.USER:
                prompt = self._turns[place].content
                self._turns = self._turns[:place]
                return prompt
        return None

    def _with_system(self, turns: tuple[Message, ...]) -> tuple[Message, ...]:
        return turns if self.system is None else (system_message(self.system), *turns)

    def _keep(self, result: ChatResult) -> None:
        history = result.history
        self._turns = history[1:] if history and history[0].role is Role.SYSTEM else history
        self.last = result

    def _trimmed(self, model: ModelInfo, max_tokens: int | None) -> Trimming:
        """Searches for the longest history that leaves room for an answer, dropping whole turns from the oldest on.

        Without any turn it may still be too long; then the server refuses, naming both counts.
        """
        room = min(max_tokens or model.default_max_tokens, model.context_length // 2)
        cuts = {place for place, turn in enumerate(self._turns) if turn.role is Role.USER} | {0, len(self._turns)}
        histories = [self._with_system(self._turns[cut:]) for cut in sorted(cuts)]
        if len(histories) == 1 or (yield histories[0]) >= room:
            return histories[0]
        low, high = 1, len(histories) - 1
        while low < high:
            middle = (low + high) // 2
            fits = (yield histories[middle]) >= room
            low, high = (low, middle) if fits else (middle + 1, high)
        return histories[low]


class Conversation(_Memory):
    """A chat that remembers.

    A prompt that does not fit into the model's context with the history is an InvalidRequestError that names both
    counts, unless `trim` is set: then the oldest turns are forgotten, never the instructions, until there is room for
    `max_tokens` of answer, or for half the context if that is less. That costs a call for each turn, and a few more
    when something must go.
    """

    def __init__(
        self, client: Client, system: str | None = None, *, history: Iterable[AnyMessage] = (), trim: bool = False
    ) -> None:
        super().__init__(system, history, trim)
        self._client = client

    def ask(self, prompt: str, **options: Unpack[AskOptions]) -> ChatResult:
        """Answers a prompt; `options` are those of AskOptions."""
        turn = _TurnOptions(options)
        history = self._history_for(prompt, turn)
        result = self._client.chat(prompt, history=history, **turn.to_answer())
        self._keep(result)
        return result

    def stream(self, prompt: str, **options: Unpack[AskOptions]) -> Generator[Chunk, None, None]:
        """Answers a prompt as the model generates the answer; leaving the loop early cancels and forgets the turn."""
        turn = _TurnOptions(options)
        history = self._history_for(prompt, turn)
        with self._client.chat_stream(prompt, history=history, **turn.to_answer()) as stream:
            for chunk in stream:
                if chunk.finish:
                    self._keep(stream.result())
                yield chunk

    def _history_for(self, prompt: str, turn: _TurnOptions) -> tuple[Message, ...]:
        if not self.trim:
            return self.history
        self._model = self._model or self._client.model(**turn.to_look())
        trimming = self._trimmed(self._model, turn.max_tokens)
        try:
            history = next(trimming)
            while True:
                history = trimming.send(self._remaining(prompt, history, turn))
        except StopIteration as found:
            return tuple(found.value)

    def _remaining(self, prompt: str, history: tuple[Message, ...], turn: _TurnOptions) -> int:
        try:
            return self._client.count_tokens(prompt, history=history, **turn.to_look()).remaining_tokens
        except InvalidRequestError as error:
            return remaining_if_too_long(error)


class AsyncConversation(_Memory):
    """A chat that remembers, in asyncio; otherwise as Conversation."""

    def __init__(
        self, client: AsyncClient, system: str | None = None, *, history: Iterable[AnyMessage] = (), trim: bool = False
    ) -> None:
        super().__init__(system, history, trim)
        self._client = client

    async def ask(self, prompt: str, **options: Unpack[AskOptions]) -> ChatResult:
        """Answers a prompt; `options` are those of AskOptions."""
        turn = _TurnOptions(options)
        history = await self._history_for(prompt, turn)
        result = await self._client.chat(prompt, history=history, **turn.to_answer())
        self._keep(result)
        return result

    async def stream(self, prompt: str, **options: Unpack[AskOptions]) -> AsyncGenerator[Chunk, None]:
        """Answers a prompt as the model generates the answer; leaving the loop early cancels and forgets the turn."""
        turn = _TurnOptions(options)
        history = await self._history_for(prompt, turn)
        async with self._client.chat_stream(prompt, history=history, **turn.to_answer()) as stream:
            async for chunk in stream:
                if chunk.finish:
                    self._keep(stream.result())
                yield chunk

    async def _history_for(self, prompt: str, turn: _TurnOptions) -> tuple[Message, ...]:
        if not self.trim:
            return self.history
        self._model = self._model or await self._client.model(**turn.to_look())
        trimming = self._trimmed(self._model, turn.max_tokens)
        try:
            history = next(trimming)
            while True:
                history = trimming.send(await self._remaining(prompt, history, turn))
        except StopIteration as found:
            return tuple(found.value)

    async def _remaining(self, prompt: str, history: tuple[Message, ...], turn: _TurnOptions) -> int:
        try:
            return (await self._client.count_tokens(prompt, history=history, **turn.to_look())).remaining_tokens
        except InvalidRequestError as error:
            return remaining_if_too_long(error)
