"""The memory of a conversation, which is the same for both clients."""

import time
from collections.abc import Generator, Iterable
from typing import TypeAlias

from index_grpc_client.errors import LimitExceededError, PromptTooLongError, was_too_large
from index_grpc_client.limits import allowed_metadata, allowed_timeout
from index_grpc_client.message import AnyMessage, Message, Role, messages
from index_grpc_client.message import system as system_message
from index_grpc_client.model import ModelInfo
from index_grpc_client.options import AskOptions, CallOptions
from index_grpc_client.request import QUICK_TIMEOUT
from index_grpc_client.result import ChatResult

SHORTEST_TIMEOUT_S = 0.001

Trimming: TypeAlias = Generator[tuple[Message, ...], int, tuple[Message, ...]]
"""Yields histories, receives how many tokens remain after each one with the prompt, and returns the one to use.

It is a generator so that the search is the same for both clients, of which one counts tokens with asyncio.
"""


def remaining_if_too_long(error: PromptTooLongError | LimitExceededError) -> int:
    """Returns 0 if the prompt was too long to be counted or even to be sent. Raises every other error again."""
    if isinstance(error, LimitExceededError) and not was_too_large(error):
        raise error
    return 0


class Turn:
    """One turn: the turns before it and its options. All calls of the turn share one timeout."""

    def __init__(self, options: AskOptions, timeout: float, before: tuple[Message, ...]) -> None:
        """`timeout` is the client's, used if the options have none. Raises ValueError or TypeError if it is invalid."""
        metadata, own = options.get("metadata"), options.get("timeout")
        if metadata is not None:
            metadata = allowed_metadata(metadata)  # several calls read it; an iterator could be read only once
        self._options: AskOptions = {**options, "metadata": metadata}
        self._ends_at = time.monotonic() + allowed_timeout(timeout if own is None else own)
        self.before = before
        self.max_tokens, self.model = options.get("max_tokens"), options.get("model")

    def for_lookup(self) -> CallOptions:
        """Returns the options of a call that gets the model or counts tokens."""
        options = self._options
        return CallOptions(
            timeout=min(self._seconds_left(), QUICK_TIMEOUT),
            request_id=options.get("request_id"),
            metadata=options.get("metadata"),
        )

    def for_answer(self) -> AskOptions:
        """Returns the options of the call that gets the answer."""
        return {**self._options, "timeout": self._seconds_left()}

    def _seconds_left(self) -> float:
        """Returns the seconds left, never 0: a call with too little time fails like any that takes too long."""
        return max(self._ends_at - time.monotonic(), SHORTEST_TIMEOUT_S)


class Memory:
    """The finished turns of a conversation. A turn that failed or was left early is not kept."""

    def __init__(self, system: str | None, history: Iterable[AnyMessage], trim: bool) -> None:
        self.system = system
        """The instructions for the whole conversation, or None; can be changed between turns."""
        self.trim = trim
        self.last: ChatResult | None = None
        """The result of the last turn; None before the first turn and after `history` was changed."""
        self._model: ModelInfo | None = None
        turns = messages(history)
        if system is not None and turns and turns[0].role is Role.SYSTEM:
            raise ValueError("system is given, and the history begins with a system message: leave one of them out")
        self.history = turns

    @property
    def history(self) -> tuple[Message, ...]:
        """The conversation so far, oldest message first. It begins with the instructions if there are any.

        It can be set. The instructions stay as they are unless the new history begins with a system message.
        """
        return self._with_system(self._turns)

    @history.setter
    def history(self, history: Iterable[AnyMessage]) -> None:
        self._turns, self.last = messages(history), None
        if self._turns and self._turns[0].role is Role.SYSTEM:
            self.system, self._turns = self._turns[0].content, self._turns[1:]

    def clear(self) -> None:
        """Forgets everything except the instructions."""
        self._turns, self.last = (), None

    def undo(self) -> str | None:
        """Forgets the last prompt and everything after it. Returns the prompt, or None if there was none."""
        for place in reversed(range(len(self._turns))):
            if self._turns[place].role is Role.USER:
                prompt = self._turns[place].content
                self._turns, self.last = self._turns[:place], None
                return prompt
        return None

    def _with_system(self, turns: tuple[Message, ...]) -> tuple[Message, ...]:
        return turns if self.system is None else (system_message(self.system), *turns)

    def keep(self, result: ChatResult, turn: Turn) -> None:
        """Remembers a finished turn. If the history was changed while it ran, the turn is added to the new history."""
        history = result.history[1:] if result.history[0].role is Role.SYSTEM else result.history
        self._turns = history if self._turns is turn.before else (*self._turns, *history[-2:])
        self.last = result

    def trimmed(self, model: ModelInfo, max_tokens: int | None) -> Trimming:
        """Searches for the longest history that leaves room for an answer. Drops whole turns, the oldest first.

        Even without any turn the prompt may be too long. Then the server refuses it, with both counts in the message.
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
