"""Conversations: they keep the history of a chat and send it with each prompt."""

from collections.abc import AsyncGenerator, Generator, Iterable
from typing import Unpack

from index_grpc_client.aio_client import AsyncClient
from index_grpc_client.client import Client
from index_grpc_client.errors import LimitExceededError, PromptTooLongError
from index_grpc_client.memory import Memory, Turn, remaining_if_too_long
from index_grpc_client.message import AnyMessage, Message
from index_grpc_client.options import AskOptions
from index_grpc_client.result import ChatResult, Chunk


class Conversation(Memory):
    """A chat with a memory. Ask one thing at a time: a turn does not know of another one that is still running.

    If the prompt with the history does not fit into the model's context, PromptTooLongError is raised, unless `trim` is
    true. Then the oldest turns are dropped, but never the instructions, until there is room for an answer of
    `max_tokens`, or of half the context if that is less. For this the first turn gets the model's limits, and each turn
    with a history counts tokens, which is one more call, or a few more if turns must be dropped.
    """

    def __init__(
        self, client: Client, system: str | None = None, *, history: Iterable[AnyMessage] = (), trim: bool = False
    ) -> None:
        super().__init__(system, history, trim)
        self._client = client

    def ask(self, prompt: str, **options: Unpack[AskOptions]) -> ChatResult:
        """Returns the whole answer to a prompt; `options` are those of AskOptions."""
        turn = Turn(options, self._client.timeout, self._turns)
        history = self._history_for(prompt, turn)
        result = self._client.chat(prompt, history=history, **turn.for_answer())
        self.keep(result, turn)
        return result

    def stream(self, prompt: str, **options: Unpack[AskOptions]) -> Generator[Chunk, None, None]:
        """Yields the chunks of the answer to a prompt. The call begins when the first chunk is requested.

        Leaving the loop early cancels and forgets the turn, as soon as nothing refers to the generator any more.
        """
        turn = Turn(options, self._client.timeout, self._turns)
        history = self._history_for(prompt, turn)
        with self._client.chat_stream(prompt, history=history, **turn.for_answer()) as stream:
            for chunk in stream:
                if chunk.finish:
                    self.keep(stream.result(), turn)
                yield chunk

    def _history_for(self, prompt: str, turn: Turn) -> tuple[Message, ...]:
        if not self.trim:
            return self.history
        self._model = self._model or self._client.model(**turn.for_lookup())
        trimming = self.trimmed(self._model, turn.max_tokens)
        try:
            history = next(trimming)
            while True:
                history = trimming.send(self._remaining(prompt, history, turn))
        except StopIteration as found:
            return tuple(found.value)

    def _remaining(self, prompt: str, history: tuple[Message, ...], turn: Turn) -> int:
        try:
            count = self._client.count_tokens(prompt, history=history, model=turn.model, **turn.for_lookup())
            return count.remaining_tokens
        except (PromptTooLongError, LimitExceededError) as error:
            return remaining_if_too_long(error)


class AsyncConversation(Memory):
    """A chat with a memory, for asyncio; otherwise like Conversation."""

    def __init__(
        self, client: AsyncClient, system: str | None = None, *, history: Iterable[AnyMessage] = (), trim: bool = False
    ) -> None:
        super().__init__(system, history, trim)
        self._client = client

    async def ask(self, prompt: str, **options: Unpack[AskOptions]) -> ChatResult:
        """Returns the whole answer to a prompt; `options` are those of AskOptions."""
        turn = Turn(options, self._client.timeout, self._turns)
        history = await self._history_for(prompt, turn)
        result = await self._client.chat(prompt, history=history, **turn.for_answer())
        self.keep(result, turn)
        return result

    async def stream(self, prompt: str, **options: Unpack[AskOptions]) -> AsyncGenerator[Chunk, None]:
        """Yields the chunks of the answer to a prompt. The call begins when the first chunk is requested.

        Leaving the loop early cancels and forgets the turn, as soon as nothing refers to the generator any more.
        """
        turn = Turn(options, self._client.timeout, self._turns)
        history = await self._history_for(prompt, turn)
        async with self._client.chat_stream(prompt, history=history, **turn.for_answer()) as stream:
            async for chunk in stream:
                if chunk.finish:
                    self.keep(stream.result(), turn)
                yield chunk

    async def _history_for(self, prompt: str, turn: Turn) -> tuple[Message, ...]:
        if not self.trim:
            return self.history
        self._model = self._model or await self._client.model(**turn.for_lookup())
        trimming = self.trimmed(self._model, turn.max_tokens)
        try:
            history = next(trimming)
            while True:
                history = trimming.send(await self._remaining(prompt, history, turn))
        except StopIteration as found:
            return tuple(found.value)

    async def _remaining(self, prompt: str, history: tuple[Message, ...], turn: Turn) -> int:
        try:
            count = await self._client.count_tokens(prompt, history=history, model=turn.model, **turn.for_lookup())
            return count.remaining_tokens
        except (PromptTooLongError, LimitExceededError) as error:
            return remaining_if_too_long(error)
