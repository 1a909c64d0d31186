"""Conversations: clients that remember what was said."""

import time
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from typing import TypeAlias, Unpack

from index_grpc_client.aio_client import AsyncClient
from index_grpc_client.client import Client
from index_grpc_client.errors import InvalidRequestError, LimitExceededError, was_too_large
from index_grpc_client.limits import allowed_timeout
from index_grpc_client.message import AnyMessage, Message, Role, messages
from index_grpc_client.message import system as system_message
from index_grpc_client.model import ModelInfo
from index_grpc_client.options import AskOptions, CallOptions
from index_grpc_client.request import QUICK_TIMEOUT
from index_grpc_client.result import ChatResult, Chunk

SHORTEST_TIMEOUT_S = 0.001

Trimming: TypeAlias = Generator[tuple[Message, ...], int, tuple[Message, ...]]
"""Yields histories, is sent how many tokens remain after each with the prompt, and returns the one to use.

A generator, so that the search is the same whether the client that counts is asyncio's or not.
"""


def remaining_if_too_long(error: InvalidRequestError | LimitExceededError) -> int:
    """Returns that no token remains if the prompt was too long to be counted, or even sent; raises other errors on."""
    too_large_to_send = isinstance(error, LimitExceededError) and was_too_large(error)
    if error.reason != "PROMPT_TOO_LONG" and not too_large_to_send:
        raise error
    return 0


class _Turn:
    """One turn: what stood before it, and its options, whose timeout all of its calls share."""

    def __init__(self, options: AskOptions, timeout: float, before: tuple[Message, ...]) -> None:
        """Raises ValueError for an invalid timeout; `timeout` is the client's, for want of another."""
        metadata, own = options.get("metadata"), options.get("timeout")
        if metadata is not None and not isinstance(metadata, Mapping):
            metadata = tuple(metadata)  # which several calls read
        self._options: AskOptions = {**options, "metadata": metadata}
        self._ends_at = time.monotonic() + allowed_timeout(timeout if own is None else own)
        self.before = before
        self.max_tokens = options.get("max_tokens")

    def for_lookup(self) -> CallOptions:
        """Returns the options of a call that asks after the model or counts."""
        options = self._options
        return CallOptions(
            timeout=min(self._seconds_left(), QUICK_TIMEOUT),
            request_id=options.get("request_id"),
            metadata=options.get("metadata"),
        )

    def for_answer(self) -> AskOptions:
        """Returns the options of the call that answers."""
        return {**self._options, "timeout": self._seconds_left()}

    def _seconds_left(self) -> float:
        """Returns more than 0 always: a call with next to no time fails as any that takes too long."""
        return max(self._ends_at - time.monotonic(), SHORTEST_TIMEOUT_S)


class _Memory:
    """What a conversation remembers: finished turns only. One that failed or was left early is forgotten."""

    def __init__(self, system: str | None, history: Iterable[AnyMessage], trim: bool) -> None:
        self.system = system
        """The instructions for the whole conversation; may be changed between turns."""
        self.trim = trim
        self.last: ChatResult | None = None
        """The latest answer with all that is known of it."""
        self._model: ModelInfo | None = None
        turns = messages(history)
        if system is not None and turns and turns[0].role is Role.SYSTEM:
            raise ValueError("system is given, and the history begins with a system message: leave one of them out")
        self.history = turns

    @property
    def history(self) -> tuple[Message, ...]:
        """The conversation so far, oldest message first, beginning with the instructions if there are any.

        May be set; instructions stay as they are unless the history begins with some.
        """
        return self._with_system(self._turns)

    @history.setter
    def history(self, history: Iterable[AnyMessage]) -> None:
        self._turns, self.last = messages(history), None
        if self._turns and self._turns[0].role is Role.SYSTEM:
            self.system, self._turns = self._turns[0].content, self._turns[1:]

    def clear(self) -> None:
        """Forgets all but the instructions."""
        self._turns, self.last = (), None

    def undo(self) -> str | None:
        """Forgets the last prompt and what came after it; returns the prompt, or None if there was none."""
        for place in reversed(range(len(self._turns))):
            if self._turns[place].role is Role.USER:
                prompt = self._turns[place].content
                self._turns, self.last = self._turns[:place], None
                return prompt
        return None

    def _with_system(self, turns: tuple[Message, ...]) -> tuple[Message, ...]:
        return turns if self.system is None else (system_message(self.system), *turns)

    def _keep(self, result: ChatResult, turn: _Turn) -> None:
        """Remembers a finished turn. If the conversation was changed while it ran, the turn comes after the change."""
        history = result.history[1:] if result.history[0].role is Role.SYSTEM else result.history
        self._turns = history if self._turns is turn.before else (*self._turns, *history[-2:])
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
    """A chat that remembers. One turn at a time: what is asked beside another turn does not know of it.

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
        turn = _Turn(options, self._client.timeout, self._turns)
        history = self._history_for(prompt, turn)
        result = self._client.chat(prompt, history=history, **turn.for_answer())
        self._keep(result, turn)
        return result

    def stream(self, prompt: str, **options: Unpack[AskOptions]) -> Generator[Chunk, None, None]:
        """Answers a prompt as the model generates the answer, from the first chunk that is asked for on.

        Leaving the loop early cancels and forgets the turn, as soon as nothing holds the generator any more.
        """
        turn = _Turn(options, self._client.timeout, self._turns)
        history = self._history_for(prompt, turn)
        with self._client.chat_stream(prompt, history=history, **turn.for_answer()) as stream:
            for chunk in stream:
                if chunk.finish:
                    self._keep(stream.result(), turn)
                yield chunk

    def _history_for(self, prompt: str, turn: _Turn) -> tuple[Message, ...]:
        if not self.trim:
            return self.history
        self._model = self._model or self._client.model(**turn.for_lookup())
        trimming = self._trimmed(self._model, turn.max_tokens)
        try:
            history = next(trimming)
            while True:
                history = trimming.send(self._remaining(prompt, history, turn))
        except StopIteration as found:
            return tuple(found.value)

    def _remaining(self, prompt: str, history: tuple[Message, ...], turn: _Turn) -> int:
        try:
            return self._client.count_tokens(prompt, history=history, **turn.for_lookup()).remaining_tokens
        except (InvalidRequestError, LimitExceededError) as error:
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
        turn = _Turn(options, self._client.timeout, self._turns)
        history = await self._history_for(prompt, turn)
        result = await self._client.chat(prompt, history=history, **turn.for_answer())
        self._keep(result, turn)
        return result

    async def stream(self, prompt: str, **options: Unpack[AskOptions]) -> AsyncGenerator[Chunk, None]:
        """Answers a prompt as the model generates the answer, from the first chunk that is asked for on.

        Leaving the loop early cancels and forgets the turn, as soon as nothing holds the generator any more.
        """
        turn = _Turn(options, self._client.timeout, self._turns)
        history = await self._history_for(prompt, turn)
        async with self._client.chat_stream(prompt, history=history, **turn.for_answer()) as stream:
            async for chunk in stream:
                if chunk.finish:
                    self._keep(stream.result(), turn)
                yield chunk

    async def _history_for(self, prompt: str, turn: _Turn) -> tuple[Message, ...]:
        if not self.trim:
            return self.history
        self._model = self._model or await self._client.model(**turn.for_lookup())
        trimming = self._trimmed(self._model, turn.max_tokens)
        try:
            history = next(trimming)
            while True:
                history = trimming.send(await self._remaining(prompt, history, turn))
        except StopIteration as found:
            return tuple(found.value)

    async def _remaining(self, prompt: str, history: tuple[Message, ...], turn: _Turn) -> int:
        try:
            return (await self._client.count_tokens(prompt, history=history, **turn.for_lookup())).remaining_tokens
        except (InvalidRequestError, LimitExceededError) as error:
            return remaining_if_too_long(error)
