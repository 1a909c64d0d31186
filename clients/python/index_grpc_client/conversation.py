"""Conversations: clients that remember what was said."""

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
    """A chat that remembers. One turn at a time: what is asked beside another turn does not know of it.

    A prompt that does not fit into the model's context with the history is a PromptTooLongError that names both
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
        turn = Turn(options, self._client.timeout, self._turns)
        history = self._history_for(prompt, turn)
        result = self._client.chat(prompt, history=history, **turn.for_answer())
        self.keep(result, turn)
        return result

    def stream(self, prompt: str, **options: Unpack[AskOptions]) -> Generator[Chunk, None, None]:
        """Answers a prompt as the model generates the answer, from the first chunk that is asked for on.

        Leaving the loop early cancels and forgets the turn, as soon as nothing holds the generator any more.
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
            return self._client.count_tokens(prompt, history=history, **turn.for_lookup()).remaining_tokens
        except (PromptTooLongError, LimitExceededError) as error:
            return remaining_if_too_long(error)


class AsyncConversation(Memory):
    """A chat that remembers, in asyncio; otherwise as Conversation."""

    def __init__(
        self, client: AsyncClient, system: str | None = None, *, history: Iterable[AnyMessage] = (), trim: bool = False
    ) -> None:
        super().__init__(system, history, trim)
        self._client = client

    async def ask(self, prompt: str, **options: Unpack[AskOptions]) -> ChatResult:
        """Answers a prompt; `options` are those of AskOptions."""
        turn = Turn(options, self._client.timeout, self._turns)
        history = await self._history_for(prompt, turn)
        result = await self._client.chat(prompt, history=history, **turn.for_answer())
        self.keep(result, turn)
        return result

    async def stream(self, prompt: str, **options: Unpack[AskOptions]) -> AsyncGenerator[Chunk, None]:
        """Answers a prompt as the model generates the answer, from the first chunk that is asked for on.

        Leaving the loop early cancels and forgets the turn, as soon as nothing holds the generator any more.
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
            return (await self._client.count_tokens(prompt, history=history, **turn.for_lookup())).remaining_tokens
        except (PromptTooLongError, LimitExceededError) as error:
            return remaining_if_too_long(error)
