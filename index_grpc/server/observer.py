"""What is told of everything that happens, and may not change any of it: logs, metrics, traces, load reports."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from index_grpc.contract import ServedModel, Timing
from index_grpc.engine.door import Engine
from index_grpc.engine.orders import StepReport
from index_grpc.server.calls import Call
from index_grpc.server.readiness import Readiness

log = logging.getLogger(__name__)


class Watched(Protocol):
    """A server, as far as those who observe it may look."""

    readiness: Readiness
    engine: Engine | None

    @property
    def model(self) -> ServedModel | None:
        """The served model, once it has been loaded."""


class Observer:
    """Does nothing; a subclass overrides what it wants to hear of. Called on the event loop, so it must be quick."""

    def starting(self, server: Watched) -> None:
        """The server is about to listen. May raise StartupError; then it does not."""

    def call_ended(self, call: Call) -> None:
        """A call of the chat service has ended, however."""

    def stepped(self, step: StepReport) -> None:
        """The engine has computed a step."""

    def answer_began(self, timing: Timing) -> None:
        """A call's first token is there."""

    def answer_left(self, num_tokens_saved: int) -> None:
        """The rest of an answer is not wanted: so many tokens at most will not have to be generated."""

    def engine_lost(self) -> None:
        """The engine broke or was given up."""

    def stopped(self) -> None:
        """The server has stopped; nothing follows. May take a few seconds to tell what is still to be told."""


class Observers(Observer):
    """Passes on to each of several, in order: a later one finds on a call what an earlier one has put there.

    One that breaks breaks nothing else.
    """

    def __init__(self, members: Sequence[Observer]) -> None:
        self.members = members
        self._broken: set[tuple[Observer, str]] = set()
        """Who broke over what, so that each is told of once."""

    def starting(self, server: Watched) -> None:
        """See Observer. What this raises is passed on."""
        for member in self.members:
            member.starting(server)

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        self._tell("call_ended", lambda member: member.call_ended(call))

    def stepped(self, step: StepReport) -> None:
        """See Observer."""
        self._tell("stepped", lambda member: member.stepped(step))

    def answer_began(self, timing: Timing) -> None:
        """See Observer."""
        self._tell("answer_began", lambda member: member.answer_began(timing))

    def answer_left(self, num_tokens_saved: int) -> None:
        """See Observer."""
        self._tell("answer_left", lambda member: member.answer_left(num_tokens_saved))

    def engine_lost(self) -> None:
        """See Observer."""
        self._tell("engine_lost", lambda member: member.engine_lost())

    def stopped(self) -> None:
        """See Observer."""
        self._tell("stopped", lambda member: member.stopped())

    def _tell(self, event: str, tell: Callable[[Observer], None]) -> None:
        for member in self.members:
            try:
                tell(member)
            except Exception:
                if (member, event) not in self._broken:
                    self._broken.add((member, event))
                    log.exception("%s broke over %s; if it does again, nobody is told", type(member).__name__, event)
