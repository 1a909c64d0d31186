"""What a conversation remembers, whichever client it talks through."""

import time
from collections.abc import Generator, Iterable, Mapping
from typing import TypeAlias

from index_grpc_client.errors import LimitExceededError, PromptTooLongError, was_too_large
from index_grpc_client.limits import allowed_timeout
from index_grpc_client.message import AnyMessage, Message, Role, messages
from index_grpc_client.message import system as system_message
from index_grpc_client.model import ModelInfo
from index_grpc_client.options import AskOptions, CallOptions
from index_grpc_client.request import QUICK_TIMEOUT
from index_grpc_client.result import ChatResult

SHORTEST_TIMEOUT_S = 0.001

Trimming: TypeAlias = Generator[tuple[Message, ...], int, tuple[Message, ...]]
"""Yields histories, is sent how many tokens remain after each with the prompt, and returns the one to use.

A generator, so that the search is the same whether the client that counts is asyncio's or not.
"""


def remaining_if_too_long(error: PromptTooLongError | LimitExceededError) -> int:
    """Returns that no token remains if the prompt was too long to be counted, or even sent; raises other errors on."""
    if isinstance(error, LimitExceededError) and not was_too_large(error):
        raise error
    return 0


class Turn:
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


class Memory:
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

    def keep(self, result: ChatResult, turn: Turn) -> None:
        """Remembers a finished turn. If the conversation was changed while it ran, the turn comes after the change."""
        history = result.history[1:] if result.history[0].role is Role.SYSTEM else result.history
        self._turns = history if self._turns is turn.before else (*self._turns, *history[-2:])
        self.last = result

    def trimmed(self, model: ModelInfo, max_tokens: int | None) -> Trimming:
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
